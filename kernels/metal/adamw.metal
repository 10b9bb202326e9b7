// A step of AdamW on `count` elements: the new parameter, m and v, and with `ahead` how[6] m + (1 - how[6]) g.
// scale (1,): factor of the gradient. how (7,): beta1, beta2, factor of the root, epsilon, rate, factor of
// the parameter, momentum of the look ahead; see AdamWStep.
// Template: reads (elements of a thread), ahead.

const int count = parameter_shape[0];
const float beta1 = how[0];
const float beta2 = how[1];
const float momentum = how[6];
const int first = int(thread_position_in_grid.x) * reads;
for (int i = first; i < min(first + reads, count); ++i) {
  const float g = scale[0] * gradient[i];
  const float mean = fma(beta1, m[i], (1.0f - beta1) * g);
  const float square = fma(beta2, v[i], (1.0f - beta2) * g * g);
  const float change = how[4] * mean / fma(how[2], sqrt(square), how[3]);
  parameter_out[i] = fma(how[5], parameter[i], -change);
  m_out[i] = mean;
  v_out[i] = square;
  if (ahead) {
    ahead_out[i] = fma(momentum, mean, (1.0f - momentum) * g);
  }
}
if (!ahead && first == 0) {
  // The output is one element without meaning.
  ahead_out[0] = 0.0f;
}
