// d_gate_up (m, 2 * width), the gradient with respect to gate | up of silu(gate) * up, given d_out (m,
// width).
// Template: T, width, reads (elements of a thread, a divisor of width).

constexpr int turns = width / reads;
const long row = int(thread_position_in_grid.x) / turns;
const int column = int(thread_position_in_grid.x) % turns * reads;
UNROLL
for (int i = 0; i < reads; ++i) {
  const long at = row * (2 * width) + column + i;
  const float gate = float(gate_up[at]);
  const float d = float(d_out[row * width + column + i]);
  const float s = sigmoid_of(gate);
  d_gate_up[at] = T(d * float(gate_up[at + width]) * s * fma(gate, 1.0f - s, 1.0f));
  d_gate_up[at + width] = T(d * gate * s);
}
