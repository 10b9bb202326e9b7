// y (m, out) = x (m, in) W^T for a few rows of x, with W (out, in) in affine codes of 4 bits: the
// weights are read once. `in` is a multiple of 256.
//
// Template: T the activations; group values that share a scale; columns tiles of 8 rows of x (of
// `parts` summands each, where they are float32); warps of a block (chosen in cuda/matmul.rs). With
// `norm` it multiplies norm(x), which has the weight `beside` (in,) and `epsilon`, for up to `held` rows;
// with `residual` it adds `beside` (m, out); with `swiglu`, W is gate and up (2 hidden, in), and
// y (m, hidden) is silu(gate) * up.
//
// With `norm`, a warp takes its stages of x through shared memory: it multiplies them by the norm's
// weight, and sums the squares, whose root divides the finished sums.
//
// A block has 16 rows of W, and its warps take turns with stages of 256 values of k, which they copy to
// shared memory in whole lines, one ahead. Tensor cores multiply codes, which 16-bit floats hold
// exactly, by activations as they are; the sums of a group are float32 and are scaled there:
// sum_k (s q_k + b) x_k = s sum_k q_k x_k + b sum_k x_k. A product with ones gives the last sum in the
// place where it is needed. Lane `4 g + t` has the words t of rows g and g + 8, which hold the k that
// are t's in an operand; their order is free as long as both sides agree.

using E = Operand<T>::type;
using S = Pointed<decltype(scales)>::type;
constexpr int parts = Operand<T>::parts;
constexpr bool exact = parts > 1;
constexpr int rows = 16;
constexpr int depth = 256;
constexpr int stages = 2;
constexpr int words = group / 32;
constexpr int groups_ahead = depth / group;
// Rows longer than they need be, so that the loads of a warp meet different banks.
constexpr int w_width = depth / 2 + 16 * words;
constexpr int w_bytes = rows * w_width;
constexpr int s_bytes = groups_ahead * int(sizeof(S));
constexpr int s_piece = s_bytes < 16 ? s_bytes : 16;
constexpr int stage_bytes = w_bytes + 2 * rows * s_bytes;
constexpr int sum_width = 8 * columns + 1;
constexpr int x_width = 2 * depth + 16;
constexpr int x_bytes = norm ? held * x_width : 0;
// Results of a block: with `swiglu` its rows are as many of the gate, and those of up that belong to them.
constexpr int own = swiglu ? rows / 2 : rows;
static_assert(!norm || (parts == 1 && columns == 1 && held <= 8));
static_assert(!residual || (parts == 1 && !norm));

extern __shared__ __align__(16) char shared[];

const int self = threadIdx.x;
const int lane = self % 32;
const int warp = self / 32;
const int of_row = lane / 4;
const int of_column = lane % 4;

const int m = x_shape[0];
const int in = 8 * weight_shape[1];
const int out = weight_shape[0];
const int groups = in / group;
const int first_row = blockIdx.x * own;
// The rows between the two halves of a block's.
const int between = swiglu ? out / 2 - own : 0;
const auto row_of = [&](int row) { return first_row + row + (row < rows / 2 ? 0 : between); };
const int count = (in / depth - warp + warps - 1) / warps;

// The places that a lane copies from and to.
constexpr int pieces = s_bytes / s_piece;
constexpr int s_rows = 32 / pieces;
const int w_row = lane / 8;
const int s_row = lane / pieces;
static_assert(!swiglu || s_rows >= rows);
const long s_at = long(row_of(s_row)) * groups + warp * groups_ahead +
    lane % pieces * (s_piece / int(sizeof(S)));
const unsigned* w_from =
    weight + long(first_row + w_row) * (in / 8) + warp * (depth / 8) + lane % 8 * 4;
const S* s_from = scales + s_at;
const S* b_from = biases + s_at;
char* const mine = shared + warp * stages * stage_bytes;
int to_slot = 0;
const auto fetch = [&](bool more) {
  if (more) {
    char* to = mine + to_slot;
    UNROLL
    for (int i = 0; i < rows; i += 4) {
      if (row_of(i + w_row) < out) {
        const int row = i < rows / 2 ? i : i + between;
        copy16(to + (i + w_row) * w_width + lane % 8 * 16, w_from + row * (in / 8), true);
      }
    }
    UNROLL
    for (int i = 0; i < rows; i += s_rows) {
      if (i + s_row < rows && row_of(i + s_row) < out) {
        char* at = to + w_bytes + i * s_bytes + lane * s_piece;
        copy_small<s_piece>(at, s_from + i * groups);
        copy_small<s_piece>(at + rows * s_bytes, b_from + i * groups);
      }
    }
    w_from += warps * depth / 8;
    s_from += warps * groups_ahead;
    b_from += warps * groups_ahead;
    to_slot ^= stage_bytes;
  }
  copies_end();
};

// A lane's rows of x, if they exist.
const T* x_of[columns];
bool real[columns];
UNROLL
for (int j = 0; j < columns; ++j) {
  const int column = j * 8 + of_row;
  real[j] = column / parts < m;
  x_of[j] = x + long(real[j] ? column / parts : 0) * in + warp * depth + of_column * 8 * words;
}

float Y[columns][4] = {};
fetch(0 < count);
if constexpr (residual) {
  UNROLL
  for (int i = 0; i < 4 * columns; ++i) {
    const int row = first_row + i % 4 / 2 * 8 + of_row;
    const int column = i / 4 * 8 + of_column * 2 + i % 2;
    if (warp == 0 && column < m && row < out) {
      Y[i / 4][i % 4] = float(beside[long(column) * out + row]);
    }
  }
}

// The rows of x that a warp multiplies by the norm's weight.
char* const x_mine = shared + warps * stages * stage_bytes + warp * x_bytes;
float squares[held] = {};
int k = warp * depth + lane * 8;
for (int stage = 0; stage < count; ++stage) {
  uint4 x_ahead[held];
  uint4 factors;
  if constexpr (norm) {
    factors = *reinterpret_cast<const uint4*>(beside + k);
    UNROLL
    for (int row = 0; row < held; ++row) {
      if (row < m) {
        x_ahead[row] = *reinterpret_cast<const uint4*>(x + long(row) * in + k);
      }
    }
    k += warps * depth;
  }
  copies_arrived<stages - 2>();
  __syncwarp();
  if constexpr (norm) {
    UNROLL
    for (int row = 0; row < held; ++row) {
      if (row < m) {
        const uint4 product = weighted(E(), x_ahead[row], factors, squares[row]);
        *reinterpret_cast<uint4*>(x_mine + row * x_width + lane * 16) = product;
      }
    }
    __syncwarp();
  }
  fetch(stage + 1 < count);
  const char* from = mine + stage % stages * stage_bytes;
  float scale[2][groups_ahead];
  float bias[2][groups_ahead];
  UNROLL
  for (int half = 0; half < 2; ++half) {
    const char* at = from + w_bytes + (half * 8 + of_row) * s_bytes;
    load_floats(scale[half], reinterpret_cast<const S*>(at));
    load_floats(bias[half], reinterpret_cast<const S*>(at + rows * s_bytes));
  }
  UNROLL
  for (int u = 0; u < groups_ahead; ++u) {
    unsigned word[2][words];
    UNROLL
    for (int half = 0; half < 2; ++half) {
      const char* at = from + (half * 8 + of_row) * w_width;
      load_words(word[half], reinterpret_cast<const unsigned*>(at) + (u * 4 + of_column) * words);
    }
    float sum[columns][4] = {};
    float one[columns][4] = {};
    UNROLL
    for (int w = 0; w < words; ++w) {
      unsigned b[columns][4] = {};
      UNROLL
      for (int j = 0; j < columns; ++j) {
        const int at = u * group + 8 * w;
        if (real[j] && norm) {
          const E* from = reinterpret_cast<const E*>(x_mine + of_row * x_width);
          load_pairs(b[j], from + of_column * 8 * words + at, 0);
        } else if (real[j]) {
          load_pairs(b[j], x_of[j] + at, (j * 8 + of_row) % parts);
        }
      }
      UNROLL
      for (int step = 0; step < 2; ++step) {
        constexpr unsigned o = ones_of(E());
        unsigned a[4];
        UNROLL
        for (int part = 0; part < 4; ++part) {
          a[part] = raised(E(), word[part % 2][w] >> (step * 8 + part / 2 * 4));
          a[part] = exact ? lowered(E(), a[part]) : a[part];
        }
        UNROLL
        for (int j = 0; j < columns; ++j) {
          mma16(E(), one[j], {o, o, o, o}, b[j][2 * step], b[j][2 * step + 1]);
          mma16(E(), sum[j], a, b[j][2 * step], b[j][2 * step + 1]);
        }
      }
    }
    UNROLL
    for (int half = 0; half < 2; ++half) {
      const float s = scale[half][u];
      const float c = exact ? bias[half][u] : fmaf(-offset_of(E()), s, bias[half][u]);
      UNROLL
      for (int j = 0; j < columns; ++j) {
        UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          Y[j][i] = fmaf(s, sum[j][i], fmaf(c, one[j][i], Y[j][i]));
        }
      }
    }
  }
  UNROLL
  for (int j = 0; j < columns; ++j) {
    x_of[j] += warps * depth;
  }
}

// The sums of the warps and of the parts of a float32.
__syncthreads();
float* const sums = reinterpret_cast<float*>(shared);  // (warps, rows, sum_width)
UNROLL
for (int j = 0; j < columns; ++j) {
  UNROLL
  for (int i = 0; i < 4; ++i) {
    const int row = warp * rows + i / 2 * 8 + of_row;
    sums[row * sum_width + j * 8 + of_column * 2 + i % 2] = Y[j][i];
  }
}
float* const square_sums = sums + warps * rows * sum_width;  // (warps, held)
if constexpr (norm) {
  UNROLL
  for (int row = 0; row < held; ++row) {
    UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
      squares[row] += __shfl_xor_sync(0xffffffffu, squares[row], distance);
    }
    if (lane == 0) {
      square_sums[warp * held + row] = squares[row];
    }
  }
}
__syncthreads();
const int width = swiglu ? out / 2 : out;
for (int i = self; i < own * m; i += 32 * warps) {
  const int row = i % own;
  const int column = i / own;
  float sum[2] = {};
  float square = 0.0f;
  UNROLL
  for (int turn = 0; turn < warps; ++turn) {
    UNROLL
    for (int half = 0; half < rows / own; ++half) {
      UNROLL
      for (int part = parts - 1; part >= 0; --part) {
        const int at = (turn * rows + half * own + row) * sum_width;
        sum[half] += sums[at + column * parts + part];
      }
    }
    square += norm ? square_sums[turn * held + column] : 0.0f;
  }
  const float scale = norm ? rsqrtf(square / float(in) + __int_as_float(epsilon)) : 1.0f;
  float result = scale * sum[0];
  if constexpr (swiglu) {
    result *= scale * sum[1] / (1.0f + expf(-result));
  }
  if (first_row + row < width) {
    y[long(column) * width + first_row + row] = T(result);
  }
}
