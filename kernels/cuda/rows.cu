// Rows of a matrix W (out, in) in affine codes of 4 bits: y (m, 1, in) are those that `ids` (m, 1) name, the
// last one for ids beyond it. A thread computes the eight values of a word.
//
// Template: T the results; group values that share a scale; threads of a block (chosen in cuda/rows.rs).

const int words = weight_shape[1];
const int at = blockIdx.x * threads + threadIdx.x;
if (at < ids_shape[0] * words) {
  const int word = at % words;
  const unsigned id = min(ids[at / words], unsigned(weight_shape[0] - 1));
  const unsigned codes = weight[long(id) * words + word];
  const long place = long(id) * (words / (group / 8)) + word / (group / 8);
  const float scale = float(scales[place]);
  const float bias = float(biases[place]);
  UNROLL
  for (int i = 0; i < 8; ++i) {
    y[long(at) * 8 + i] = T(fmaf(scale, float(codes >> (4 * i) & 15), bias));
  }
}
