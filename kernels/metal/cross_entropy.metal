// For every row of logits s (m, v), beside a teacher's logits t (m, v) if `taught`: the gradient (m, v) and the
// row's share of the three sums (3, m) that CrossEntropy names. how (3,): 1 / temperature, weight of the
// teacher's term, weight of the next token's term; see CrossEntropyOptions. A threadgroup has a row: it reads
// it once for all sums, which are relative to the largest logit so far, and once more for the gradient.
//
// Source: online softmax (arXiv 1805.02867).
// Template: T, U (dtypes of logits and teacher), v, taught, tempered (the temperature is not 1), simdgroups,
// reads (neighbours that a thread requests at a time).

constexpr int threads = 32 * simdgroups;
threadgroup float tops[2][simdgroups];
threadgroup float parts[5][simdgroups];

const int row = int(threadgroup_position_in_grid.x);
const int self = int(thread_position_in_threadgroup.x);
const int simdgroup = int(simdgroup_index_in_threadgroup);
const int lane = int(thread_index_in_simdgroup);
const long row0 = long(row) * v;
const float by = tempered ? how[0] : 1.0f;

// Finite, so that the difference of two of them is a number.
constexpr float least = -3e38f;
float s_top = least;
float t_top = least;
// Of e^((s - s_top) / temperature), e^(s - s_top), e^((t - t_top) / temperature) = p, p s, p (t - s).
float sums[5] = {};
for (int first = self * reads; first < v; first += reads * threads) {
  float s[reads];
  float t[reads];
  if (first + reads <= v) {
    read_pack(logits, row0 + first, s);
    if (taught) {
      read_pack(teacher, row0 + first, t);
    }
  } else {
    UNROLL
    for (int j = 0; j < reads; ++j) {
      const int i = first + j;
      s[j] = i < v ? float(logits[row0 + i]) : least;
      t[j] = taught && i < v ? float(teacher[row0 + i]) : least;
    }
  }
  float s_next = s_top;
  float t_next = t_top;
  UNROLL
  for (int j = 0; j < reads; ++j) {
    s_next = max(s_next, s[j]);
    t_next = taught ? max(t_next, t[j]) : t_next;
  }
  sums[0] *= exp((s_top - s_next) * by);
  sums[1] *= exp(s_top - s_next);
  const float fade = exp((t_top - t_next) * by);
  UNROLL
  for (int k = 2; k < 5; ++k) {
    sums[k] *= fade;
  }
  s_top = s_next;
  t_top = t_next;
  UNROLL
  for (int j = 0; j < reads; ++j) {
    sums[0] += exp((s[j] - s_top) * by);
    if (tempered) {
      sums[1] += exp(s[j] - s_top);
    }
    if (taught && first + j < v) {
      const float p = exp((t[j] - t_top) * by);
      sums[2] += p;
      sums[3] = fma(p, s[j], sums[3]);
      sums[4] = fma(p, t[j] - s[j], sums[4]);
    }
  }
}
if (!tempered) {
  sums[1] = sums[0];
}

float s_most = s_top;
float t_most = t_top;
UNROLL
for (int distance = 16; distance > 0; distance /= 2) {
  s_most = max(s_most, simd_shuffle_xor(s_most, distance));
  t_most = max(t_most, simd_shuffle_xor(t_most, distance));
}
if (lane == 0) {
  tops[0][simdgroup] = s_most;
  tops[1][simdgroup] = t_most;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
UNROLL
for (int i = 0; i < simdgroups; ++i) {
  s_most = max(s_most, tops[0][i]);
  t_most = max(t_most, tops[1][i]);
}
sums[0] *= exp((s_top - s_most) * by);
sums[1] *= exp(s_top - s_most);
UNROLL
for (int k = 0; k < 5; ++k) {
  const float part = simd_sum(k < 2 ? sums[k] : sums[k] * exp((t_top - t_most) * by));
  if (lane == 0) {
    parts[k][simdgroup] = part;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
// Every simdgroup adds the parts itself, which saves a third barrier.
UNROLL
for (int k = 0; k < 5; ++k) {
  sums[k] = simd_sum(lane < simdgroups ? parts[k][lane] : 0.0f);
}

if (self == 0) {
  const int m = logits_shape[0];
  float cross_entropy = 0.0f;
  float kl = 0.0f;
  if (taught) {
    const float s_log = fma(s_most, by, log(sums[0]));
    const float t_log = fma(t_most, by, log(sums[2]));
    cross_entropy = s_log - sums[3] / sums[2] * by;
    kl = fma(sums[4] / sums[2], by, s_log - t_log);
  }
  row_sums[row] = cross_entropy;
  row_sums[m + row] = kl;
  row_sums[2 * m + row] = s_most + log(sums[1]);
}
const float next = how[2] / sums[1];
const float p_weight = taught ? how[1] / sums[2] : 0.0f;
const float q_weight = (taught ? how[1] / sums[0] : 0.0f) + (tempered ? 0.0f : next);
for (int first = self * reads; first < v; first += reads * threads) {
  float s[reads];
  float t[reads];
  if (first + reads <= v) {
    read_pack(logits, row0 + first, s);
    if (taught) {
      read_pack(teacher, row0 + first, t);
    }
  } else {
    UNROLL
    for (int j = 0; j < reads; ++j) {
      const int i = first + j;
      s[j] = i < v ? float(logits[row0 + i]) : least;
      t[j] = taught && i < v ? float(teacher[row0 + i]) : least;
    }
  }
  UNROLL
  for (int j = 0; j < reads; ++j) {
    const float relative = s[j] - s_most;
    float g = q_weight * exp(relative * by);
    if (tempered) {
      g = fma(next, exp(relative), g);
    }
    if (taught) {
      g = fma(-p_weight, exp((t[j] - t_most) * by), g);
    }
    s[j] = g;
  }
  // Rows of whole packs begin with one.
  if (v % reads == 0) {
    write_pack<T>(gradient, row0 + first, s);
  } else {
    UNROLL
    for (int j = 0; j < reads; ++j) {
      if (first + j < v) {
        gradient[row0 + first + j] = T(s[j]);
      }
    }
  }
}
