// A step of AdamW on `count` elements: the new parameter, m and v. how (7,): scale of the gradient, beta1,
// beta2, factor of the root, epsilon, rate, factor of the parameter; see AdamWStep.
// Template: reads (elements of a thread).

const int count = parameter_shape[0];
const float beta1 = how[1];
const float beta2 = how[2];
const int first = int(thread_position_in_grid.x) * reads;
for (int i = first; i < min(first + reads, count); ++i) {
  const float g = how[0] * gradient[i];
  const float mean = fma(beta1, m[i], (1.0f - beta1) * g);
  const float square = fma(beta2, v[i], (1.0f - beta2) * g * g);
  const float change = how[5] * mean / fma(how[3], sqrt(square), how[4]);
  parameter_out[i] = fma(how[6], parameter[i], -change);
  m_out[i] = mean;
  v_out[i] = square;
}
