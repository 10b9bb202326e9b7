// y (m, out) = the sum of `sums` (splits, m, out) over its first axis: the parts of matmul_many.cu.

const int splits = sums_shape[0];
const long size = long(sums_shape[1]) * sums_shape[2];
const long at = long(blockIdx.x) * blockDim.x + threadIdx.x;
if (at < size) {
  float sum = 0.0f;
  for (int split = 0; split < splits; ++split) {
    sum += sums[split * size + at];
  }
  y[at] = T(sum);
}
