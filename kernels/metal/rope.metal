// x (b, l, heads, k) at the positions 0 to l - 1: the pairs (i, i + turned / 2) of each head turned by the angle
// position / wavelengths[i], the rest of the head as it is.
// A thread has a pair of all heads of a token, or two neighbours of the rest.
// Template: T, heads, k, turned (both even).

constexpr int slots = k / 2;
constexpr int pairs = turned / 2;

const int l = x_shape[1];
const int id = int(thread_position_in_grid.x);
const int slot = id % slots;
const long token = id / slots;
if (token < long(x_shape[0]) * l) {
  const bool turns = slot < pairs;
  const int first = turns ? slot : 2 * slot;
  const int second = turns ? slot + pairs : first + 1;
  const float angle = turns ? float(int(token % l)) / wavelengths[slot] : 0.0f;
  const float c = cos(angle);
  const float s = sin(angle);
  UNROLL
  for (int head = 0; head < heads; ++head) {
    const long at = (token * heads + head) * k;
    const float a = float(x[at + first]);
    const float b = float(x[at + second]);
    out[at + first] = T(fma(a, c, -(b * s)));
    out[at + second] = T(fma(a, s, b * c));
  }
}
