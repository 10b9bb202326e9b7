// out (m, width) = silu(gate) * up, of gate | up joined (m, 2 * width).
// Template: T, width, reads (elements of a thread, a divisor of width).

constexpr int turns = width / reads;
const long row = int(thread_position_in_grid.x) / turns;
const int column = int(thread_position_in_grid.x) % turns * reads;
float gate[reads];
float up[reads];
read_pack(gate_up, row * (2 * width) + column, gate);
read_pack(gate_up, row * (2 * width) + width + column, up);
UNROLL
for (int i = 0; i < reads; ++i) {
  gate[i] = silu_of(gate[i]) * up[i];
}
write_pack<T>(out, row * width + column, gate);
