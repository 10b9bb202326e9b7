// out (m, width) = silu(gate) * up, of gate | up joined (m, 2 * width).
// Template: T, width, reads (elements of a thread, a divisor of width).

constexpr int turns = width / reads;
const long row = int(thread_position_in_grid.x) / turns;
const int column = int(thread_position_in_grid.x) % turns * reads;
UNROLL
for (int i = 0; i < reads; ++i) {
  const float gate = float(gate_up[row * (2 * width) + column + i]);
  const float up = float(gate_up[row * (2 * width) + width + column + i]);
  out[row * width + column + i] = T(silu_of(gate) * up);
}
