// A step of AdamW on `count` elements: the new parameter, m and v, and with `ahead` how[6] m + (1 - how[6]) g.
// scale (1,): factor of the gradient. how (7,): beta1, beta2, factor of the root, epsilon, rate, factor of
// the parameter, momentum of the look ahead; see AdamWStep.
// Template: reads (elements of a thread), ahead.

const int count = parameter_shape[0];
const float beta1 = how[0];
const float beta2 = how[1];
const float momentum = how[6];
const int first = int(thread_position_in_grid.x) * reads;
const bool whole = first + reads <= count;
float p[reads] = {};
float g[reads] = {};
float mean[reads] = {};
float square[reads] = {};
if (whole) {
  read_pack(parameter, first, p);
  read_pack(gradient, first, g);
  read_pack(m, first, mean);
  read_pack(v, first, square);
} else {
  UNROLL
  for (int i = 0; i < reads; ++i) {
    if (first + i < count) {
      p[i] = parameter[first + i];
      g[i] = float(gradient[first + i]);
      mean[i] = m[first + i];
      square[i] = v[first + i];
    }
  }
}
float next[reads];
UNROLL
for (int i = 0; i < reads; ++i) {
  g[i] *= scale[0];
  mean[i] = fma(beta1, mean[i], (1.0f - beta1) * g[i]);
  square[i] = fma(beta2, square[i], (1.0f - beta2) * g[i] * g[i]);
  const float change = how[4] * mean[i] / fma(how[2], sqrt(square[i]), how[3]);
  p[i] = fma(how[5], p[i], -change);
  next[i] = fma(momentum, mean[i], (1.0f - momentum) * g[i]);
}
if (whole) {
  write_pack<float>(parameter_out, first, p);
  write_pack<float>(m_out, first, mean);
  write_pack<float>(v_out, first, square);
  if (ahead) {
    write_pack<float>(ahead_out, first, next);
  }
} else {
  UNROLL
  for (int i = 0; i < reads; ++i) {
    if (first + i < count) {
      parameter_out[first + i] = p[i];
      m_out[first + i] = mean[i];
      v_out[first + i] = square[i];
      if (ahead) {
        ahead_out[first + i] = next[i];
      }
    }
  }
}
if (!ahead && first == 0) {
  // The output is one element without meaning.
  ahead_out[0] = 0.0f;
}
