// y (b, h, k): attention of one query a head, (b, h, k), to the tokens of its row's text, whose keys and
// values (b, g, room, k) lie in a ring: the newest is at `read` modulo room, those before it at the places
// before, and there are positions[row] + 1 of them.
//
// A threadgroup has the query heads of a group of a row. `lanes` neighbours share a token, so that a
// simdgroup reads 32 / lanes tokens at once, with a running softmax each; the parts are put together at
// the end. Source: arXiv 1805.02867 (the running softmax), 2205.14135 (parts of it).
// Template: T, h, g, k, room, lanes (a power of two that divides k), simdgroups, scale (the bits of a
// float).

constexpr int heads = h / g;
constexpr int held = k / lanes;
constexpr int tokens = 32 / lanes;
constexpr int streams = tokens * simdgroups;
threadgroup float tops[streams][heads];
threadgroup float sums[streams][heads];
threadgroup float parts[simdgroups][heads][k];

const int row = int(threadgroup_position_in_grid.x) / g;
const int group = int(threadgroup_position_in_grid.x) % g;
const int lane = int(thread_index_in_simdgroup) % lanes;
const int stream = int(simdgroup_index_in_threadgroup) * tokens + int(thread_index_in_simdgroup) / lanes;
const int newest = int(read[0]) % room;
const int count = min(int(positions[row]) + 1, room);
const long first = long(row * g + group) * room * k + lane * held;
const long query0 = (long(row) * h + group * heads) * k;

float query[heads][held];
float part[heads][held] = {};
float top[heads];
float sum[heads] = {};
UNROLL
for (int i = 0; i < heads; ++i) {
  top[i] = -1e30f;  // not infinite: Metal's fast arithmetic has no infinities
  UNROLL
  for (int j = 0; j < held; ++j) {
    query[i][j] = float(queries[query0 + i * k + lane * held + j]) * as_type<float>(scale);
  }
}
// All lanes take every turn: they add up scores together.
for (int age0 = 0; age0 < count; age0 += streams) {
  const int age = age0 + stream;
  const bool seen = age < count;
  const int place = newest - age + (newest < age ? room : 0);
  const long at = first + long(seen ? place : newest) * k;
  float key[held];
  float value[held];
  UNROLL
  for (int j = 0; j < held; ++j) {
    key[j] = float(keys[at + j]);
    value[j] = float(values[at + j]);
  }
  UNROLL
  for (int i = 0; i < heads; ++i) {
    float score = 0.0f;
    UNROLL
    for (int j = 0; j < held; ++j) {
      score = fma(query[i][j], key[j], score);
    }
    UNROLL
    for (int distance = lanes / 2; distance > 0; distance /= 2) {
      score += simd_shuffle_xor(score, distance);
    }
    if (seen) {
      const float higher = max(top[i], score);
      const float old = exp(top[i] - higher);
      const float weight = exp(score - higher);
      top[i] = higher;
      sum[i] = fma(sum[i], old, weight);
      UNROLL
      for (int j = 0; j < held; ++j) {
        part[i][j] = fma(part[i][j], old, weight * value[j]);
      }
    }
  }
}
if (lane == 0) {
  UNROLL
  for (int i = 0; i < heads; ++i) {
    tops[stream][i] = top[i];
    sums[stream][i] = sum[i];
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
// A stream that saw no token weighs nothing; the first one saw the newest.
UNROLL
for (int i = 0; i < heads; ++i) {
  float highest = tops[0][i];
  for (int other = 1; other < streams; ++other) {
    highest = max(highest, tops[other][i]);
  }
  const float weight = exp(top[i] - highest);
  UNROLL
  for (int j = 0; j < held; ++j) {
    float mine = part[i][j] * weight;
    UNROLL
    for (int distance = lanes; distance < 32; distance *= 2) {
      mine += simd_shuffle_xor(mine, distance);
    }
    if (thread_index_in_simdgroup < lanes) {
      parts[simdgroup_index_in_threadgroup][i][lane * held + j] = mine;
    }
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
for (int at = int(thread_position_in_threadgroup.x); at < heads * k; at += 32 * simdgroups) {
  const int i = at / k;
  float highest = tops[0][i];
  for (int other = 1; other < streams; ++other) {
    highest = max(highest, tops[other][i]);
  }
  float total = 0.0f;
  for (int other = 0; other < streams; ++other) {
    total = fma(sums[other][i], exp(tops[other][i] - highest), total);
  }
  float all = 0.0f;
  UNROLL
  for (int other = 0; other < simdgroups; ++other) {
    all += parts[other][i][at % k];
  }
  y[query0 + at] = T(all / total);
}
