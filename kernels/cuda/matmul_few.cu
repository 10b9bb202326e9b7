// y (m, out) = x (m, in) W^T for a few rows of x, with W (out, in) in affine codes of 4 bits: the
// weights are read once. `in` is a multiple of 256.
//
// Template: T the activations; group values that share a scale; columns tiles of 8 rows of x (of
// `parts` summands each, where they are float32); warps of a block (chosen in cuda/matmul.rs).
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

extern __shared__ __align__(16) char shared[];

const int self = threadIdx.x;
const int lane = self % 32;
const int warp = self / 32;
const int of_row = lane / 4;
const int of_column = lane % 4;

const int m = x_shape[0];
const int in = x_shape[1];
const int out = weight_shape[0];
const int groups = in / group;
const int first_row = blockIdx.x * rows;
const int count = (in / depth - warp + warps - 1) / warps;

// The places that a lane copies from and to.
constexpr int pieces = s_bytes / s_piece;
constexpr int s_rows = 32 / pieces;
const int w_row = lane / 8;
const int s_row = lane / pieces;
const long s_at = long(first_row + s_row) * groups + warp * groups_ahead +
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
      if (first_row + i + w_row < out) {
        copy16(to + (i + w_row) * w_width + lane % 8 * 16, w_from + i * (in / 8), true);
      }
    }
    UNROLL
    for (int i = 0; i < rows; i += s_rows) {
      if (i + s_row < rows && first_row + i + s_row < out) {
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
for (int stage = 0; stage < count; ++stage) {
  copies_arrived<stages - 2>();
  __syncwarp();
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
        if (real[j]) {
          load_pairs(b[j], x_of[j] + u * group + 8 * w, (j * 8 + of_row) % parts);
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
__syncthreads();
for (int i = self; i < rows * m; i += 32 * warps) {
  const int row = i % rows;
  const int column = i / rows;
  float sum = 0.0f;
  UNROLL
  for (int turn = 0; turn < warps; ++turn) {
    UNROLL
    for (int part = parts - 1; part >= 0; --part) {
      sum += sums[(turn * rows + row) * sum_width + column * parts + part];
    }
  }
  if (first_row + row < out) {
    y[long(column) * out + first_row + row] = T(sum);
  }
}
