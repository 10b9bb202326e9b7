// d_gate_up (m, 2 * width), the gradient with respect to gate | up of silu(gate) * up, given d_out (m,
// width).
// Template: T, width, reads (elements of a thread, a divisor of width).

constexpr int turns = width / reads;
const long row = int(thread_position_in_grid.x) / turns;
const int column = int(thread_position_in_grid.x) % turns * reads;
const long at = row * (2 * width) + column;
float gate[reads];
float up[reads];
float d[reads];
read_pack(gate_up, at, gate);
read_pack(gate_up, at + width, up);
read_pack(d_out, row * width + column, d);
UNROLL
for (int i = 0; i < reads; ++i) {
  const float s = sigmoid_of(gate[i]);
  const float by_up = d[i] * gate[i] * s;
  gate[i] = d[i] * up[i] * s * fma(gate[i], 1.0f - s, 1.0f);
  up[i] = by_up;
}
write_pack<T>(d_gate_up, at, gate);
write_pack<T>(d_gate_up, at + width, up);
