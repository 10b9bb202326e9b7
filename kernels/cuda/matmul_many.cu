// y (m, out) = x (m, in) W^T for up to 8 `columns` rows of 16-bit x, with W (out, in) in affine codes of
// 4 bits and scales of x's type: the weights are read once. `in` is a multiple of 128.
//
// Template: T the activations; group values that share a scale, 32 or 64; columns tiles of 8 rows of x.
// With more blocks than tiles of W's rows, each tile's are parts of `in`, whose sums are outputs of their
// own: y is (splits, m, out), float32 if there are several.
//
// A block of 4 warps has 128 rows of W, a warp 32 of them and all rows of x. Stages of 128 values of k,
// of both matrices and of the scales, are copied to shared memory in the background. Codes become 16-bit
// floats, code * scale + bias rounded once.

constexpr int tile = 128;
constexpr int rows = 2;
constexpr int depth = 128;
constexpr int stages = 3;
constexpr int words = group / 32;
constexpr int stage_groups = depth / group;
// Rows longer than they need be, so that the loads of a warp meet different banks.
constexpr int x_width = depth + 8;
constexpr int w_width = depth / 8 + 8;
constexpr int x_bytes = 8 * columns * x_width * 2;
constexpr int w_bytes = tile * w_width * 4;
constexpr int s_bytes = tile * stage_groups * 2;
constexpr int stage_bytes = x_bytes + w_bytes + 2 * s_bytes;

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
const int splits = gridDim.x / ((out + tile - 1) / tile);
const int first_row = blockIdx.x / splits * tile;
const int split = blockIdx.x % splits;
const int all = in / depth;
const int begin = all * split / splits;
const int count = all * (split + 1) / splits - begin;

// The places that a thread copies from and to.
constexpr int x_rows = 128 / (depth / 8);
constexpr int w_rows = 128 / (depth / 32);
const int x_row = self / (depth / 8);
const int w_row = self / (depth / 32);
const T* x_from = x + long(x_row) * in + begin * depth + self % (depth / 8) * 8;
const unsigned* w_from =
    weight + long(first_row + w_row) * (in / 8) + begin * (depth / 8) + self % (depth / 32) * 4;
const long s_at = long(min(first_row + self, out - 1)) * groups + begin * stage_groups;
const auto* s_from = scales + s_at;
const auto* b_from = biases + s_at;
char* const x_to = shared + (x_row * x_width + self % (depth / 8) * 8) * 2;
char* const w_to = shared + x_bytes + (w_row * w_width + self % (depth / 32) * 4) * 4;
char* const s_to = shared + x_bytes + w_bytes + self * (2 * stage_groups);
int to_slot = 0;
const auto fetch = [&](bool more) {
  if (more) {
    UNROLL
    for (int i = 0; i < 8 * columns; i += x_rows) {
      const bool inside = i + x_row < m;
      copy16(x_to + to_slot + i * (x_width * 2), inside ? x_from + i * in : x, inside);
    }
    UNROLL
    for (int i = 0; i < tile; i += w_rows) {
      if (first_row + i + w_row < out) {
        copy16(w_to + to_slot + i * (w_width * 4), w_from + i * (in / 8), true);
      }
    }
    copy_small<2 * stage_groups>(s_to + to_slot, s_from);
    copy_small<2 * stage_groups>(s_to + to_slot + s_bytes, b_from);
    x_from += depth;
    w_from += depth / 8;
    s_from += stage_groups;
    b_from += stage_groups;
    to_slot = to_slot == (stages - 1) * stage_bytes ? 0 : to_slot + stage_bytes;
  }
  copies_end();
};

float Y[rows][columns][4] = {};
UNROLL
for (int stage = 0; stage < stages - 1; ++stage) {
  fetch(stage < count);
}
int from_slot = 0;
for (int stage = 0; stage < count; ++stage) {
  copies_arrived<stages - 2>();
  __syncthreads();
  fetch(stage + stages - 1 < count);
  const char* from = shared + from_slot;
  from_slot = from_slot == (stages - 1) * stage_bytes ? 0 : from_slot + stage_bytes;
  const T* X = reinterpret_cast<const T*>(from);
  const unsigned* W = reinterpret_cast<const unsigned*>(from + x_bytes);
  const unsigned short* S = reinterpret_cast<const unsigned short*>(from + x_bytes + w_bytes);
  UNROLL
  for (int u = 0; u < stage_groups; ++u) {
    unsigned word[rows][2][words];
    unsigned scale[rows][2];
    unsigned bias[rows][2];
    UNROLL
    for (int i = 0; i < rows; ++i) {
      UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = warp * (16 * rows) + i * 16 + half * 8 + of_row;
        load_words(word[i][half], W + row * w_width + (u * 4 + of_column) * words);
        scale[i][half] = S[row * stage_groups + u] * 0x00010001u;
        bias[i][half] = S[(tile + row) * stage_groups + u] * 0x00010001u;
      }
    }
    UNROLL
    for (int w = 0; w < words; ++w) {
      unsigned a[rows][2][4];
      UNROLL
      for (int i = 0; i < rows; ++i) {
        UNROLL
        for (int step = 0; step < 2; ++step) {
          UNROLL
          for (int part = 0; part < 4; ++part) {
            const unsigned codes =
                lowered(T(), raised(T(), word[i][part % 2][w] >> (step * 8 + part / 2 * 4)));
            a[i][step][part] = scaled(T(), codes, scale[i][part % 2], bias[i][part % 2]);
          }
        }
      }
      constexpr int half = columns < 4 ? columns : 4;
      UNROLL
      for (int j0 = 0; j0 < columns; j0 += half) {
        unsigned b[half][4];
        UNROLL
        for (int j = 0; j < half; ++j) {
          load_pairs(b[j],
                     X + ((j0 + j) * 8 + of_row) * x_width + u * group + of_column * (8 * words) + 8 * w,
                     0);
        }
        UNROLL
        for (int step = 0; step < 2; ++step) {
          UNROLL
          for (int j = 0; j < half; ++j) {
            UNROLL
            for (int i = 0; i < rows; ++i) {
              mma16(T(), Y[i][j0 + j], a[i][step], b[j][2 * step], b[j][2 * step + 1]);
            }
          }
        }
      }
    }
  }
}

// Through shared memory, so that rows of y are written in whole lines.
copies_arrived<0>();
__syncthreads();
constexpr int y_width = tile + 4;
float* const sums = reinterpret_cast<float*>(shared);
UNROLL
for (int i = 0; i < rows; ++i) {
  UNROLL
  for (int j = 0; j < columns; ++j) {
    UNROLL
    for (int e = 0; e < 4; ++e) {
      const int row = (warp * rows + i) * 16 + e / 2 * 8 + of_row;
      sums[(j * 8 + of_column * 2 + e % 2) * y_width + row] = Y[i][j][e];
    }
  }
}
__syncthreads();
if (first_row + self < out) {
  for (int row = 0; row < m; ++row) {
    y[(long(split) * m + row) * out + first_row + self] = sums[row * y_width + self];
  }
}
