// token (b,): one draw a row from softmax(logits / temperature), logits (b, width) of which the first
// `vocab` count: the largest of (logit - top) / temperature plus Gumbel noise. The noise is that of
// mlx.random.gumbel for the row's key (b, 2) and the shape (1, vocab): Threefry-2x32 with 20 rounds, its
// counters in two halves. A threadgroup has a row. limits (2,): temperature; depth, as tokens more than
// that below the top are not drawn.
//
// Source: Gumbel-max (arXiv 1411.0030); Threefry (Salmon et al., SC 2011, doi 10.1145/2063384.2063405).
// Template: T, vocab, width, simdgroups.

constexpr int threads = 32 * simdgroups;
threadgroup float tops[simdgroups];
threadgroup float scores[simdgroups];
threadgroup int places[simdgroups];

const int row = threadgroup_position_in_grid.x;
const int self = thread_position_in_threadgroup.x;
const int simdgroup = simdgroup_index_in_threadgroup;
const long row0 = long(row) * width;
const float temperature = limits[0];
const float depth = limits[1];

float top = -3e38f;
for (int i = self; i < vocab; i += threads) {
  top = max(top, float(logits[row0 + i]));
}
UNROLL
for (int distance = 16; distance > 0; distance /= 2) {
  top = max(top, simd_shuffle_xor(top, distance));
}
if (thread_index_in_simdgroup == 0) {
  tops[simdgroup] = top;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
UNROLL
for (int i = 0; i < simdgroups; ++i) {
  top = max(top, tops[i]);
}

constexpr uint32_t count = vocab;
constexpr uint32_t half_count = count / 2 + count % 2;
const uint32_t key0 = keys[2 * row];
const uint32_t key1 = keys[2 * row + 1];
float best = -3e38f;
int place = 0;
for (int i = self; i < vocab; i += threads) {
  const float x = (float(logits[row0 + i]) - top) / temperature;
  if (x < -depth) {
    continue;
  }
  const uint32_t at = i;
  const bool second = at >= half_count;
  const uint32_t low = second ? at - half_count : at;
  const uint32_t high = low + half_count < count ? low + half_count : 0;
  const uint32_t bits = threefry(key0, key1, low, high, second);
  const float uniform = min(float(bits) / 4294967296.0f, 0.99999994f);
  const float noise = max(-log(-log(uniform)), -30.0f);
  if (x + noise > best) {
    best = x + noise;
    place = i;
  }
}
UNROLL
for (int distance = 16; distance > 0; distance /= 2) {
  const float other = simd_shuffle_xor(best, distance);
  const int there = simd_shuffle_xor(place, distance);
  if (other > best || (other == best && there < place)) {
    best = other;
    place = there;
  }
}
if (thread_index_in_simdgroup == 0) {
  scores[simdgroup] = best;
  places[simdgroup] = place;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (self == 0) {
  for (int i = 1; i < simdgroups; ++i) {
    if (scores[i] > best || (scores[i] == best && places[i] < place)) {
      best = scores[i];
      place = places[i];
    }
  }
  token[row] = uint32_t(place);
}
