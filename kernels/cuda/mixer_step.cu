// A mixer between its projections for one token: split, convolution, decay, state update, C product,
// D skip and gate in one launch. n is 4 times a power of two, 16 to 128.
//
// Template: T the activations; h g p n k the sizes; split_A_log, has_conv_bias, has_z_bias,
// silu_conv; tile rows of the state in a block, threads of a block (chosen in cuda/step.rs).
//
// The state is read once and written once, 16 bytes a thread at a time, and that is what the time
// goes to: every load of it is under way before anything else happens. n/4 neighbouring threads have
// `turns` rows of n floats; thread i of them keeps the sum of row i and writes its y.

constexpr int d_inner = h * p;
constexpr int conv_dim = d_inner + 2 * g * n;
constexpr int width = conv_dim + d_inner + (split_A_log ? 0 : h);
constexpr int lanes = n / 4;
constexpr int turns = tile * lanes / threads;
constexpr int parts = p / tile;
constexpr int channels = tile + 2 * n;
static_assert(turns * threads == tile * lanes && turns <= lanes && parts * tile == p);

__shared__ __align__(16) float mixed[channels];  // x | B | C

const int self = threadIdx.x;
const int part = blockIdx.x % parts;
const int head = blockIdx.x / parts % h;
const long batch = blockIdx.x / (parts * h);
const int group = head / (h / g);
const int lane = self % lanes;
const int row0 = self / lanes * turns;
const int channel0 = head * p + part * tile;

const long state0 = ((batch * d_inner + channel0 + row0) * n) / 4 + lane;
const float4* from = reinterpret_cast<const float4*>(ssm) + state0;
float4 H[turns];
UNROLL
for (int i = 0; i < turns; ++i) {
  H[i] = __ldcs(from + i * lanes);
}

const T* token = rows + batch * width;
const float A = split_A_log ? float(A_log[batch * h + head])
                            : float(token[conv_dim + d_inner + head]);
const float skip = float(D[head]);
// The row whose y this thread writes.
const int mine = channel0 + row0 + lane;
float z = 0.0f;
if (lane < turns) {
  z = float(token[conv_dim + mine]) + (has_z_bias ? float(z_bias[mine]) : 0.0f);
}

UNROLL
for (int c = self; c < channels; c += threads) {
  const int j = c - tile;
  const int channel =
      c < tile ? channel0 + c : d_inner + (j / n) * (g * n) + group * n + j % n;
  float taps[k];
  float window[k];
  UNROLL
  for (int i = 0; i < k; ++i) {
    taps[i] = float(conv_weight[channel * k + i]);
  }
  UNROLL
  for (int i = 0; i < k - 1; ++i) {
    window[i] = float(conv[(batch * (k - 1) + i) * conv_dim + channel]);
  }
  const float input = float(token[channel]);
  const float shift = has_conv_bias ? float(conv_bias[channel]) : 0.0f;
  const float sum = convolve(window, taps, input, shift);
  mixed[c] = silu_conv ? silu_of(sum) : sum;
  // B and C of a group belong to all tiles of its heads: the first one writes their state.
  if (c < tile || (part == 0 && head % (h / g) == 0)) {
    UNROLL
    for (int i = 0; i < k - 1; ++i) {
      conv_out[(batch * (k - 1) + i) * conv_dim + channel] = T(window[i]);
    }
  }
}
const float a = sigmoid_of(-A);
__syncthreads();

const float4 B = reinterpret_cast<const float4*>(mixed + tile)[lane];
const float4 C = reinterpret_cast<const float4*>(mixed + tile + n)[lane];
float4* to = reinterpret_cast<float4*>(ssm_out) + state0;
float y_of_mine = 0.0f;
UNROLL
for (int i = 0; i < turns; ++i) {
  const float x = mixed[row0 + i];
  float4 v = H[i];
  v.x = fmaf(x, B.x, a * v.x);
  v.y = fmaf(x, B.y, a * v.y);
  v.z = fmaf(x, B.z, a * v.z);
  v.w = fmaf(x, B.w, a * v.w);
  __stcs(to + i * lanes, v);
  float sum = fmaf(v.x, C.x, fmaf(v.y, C.y, fmaf(v.z, C.z, v.w * C.w)));
  UNROLL
  for (int distance = lanes / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (lane == i) {
    y_of_mine = fmaf(skip, x, sum);
  }
}
if (lane < turns) {
  y[batch * d_inner + mine] = T(y_of_mine * silu_of(z));
}
// Without a convolution state its output is a stand-in of one element.
if (k == 1 && blockIdx.x == 0 && self == 0) {
  conv_out[0] = T(0.0f);
}
