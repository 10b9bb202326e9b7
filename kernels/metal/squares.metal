// sums (grid's threadgroups,): parts of the sum of the squares of all elements of up to 16 arrays. counts
// (17,): their numbers of elements, and that of the grid's threads.
// Template: simdgroups.

threadgroup float parts[simdgroups];

const int first = int(thread_position_in_grid.x);
const int threads = counts[16];
float sum = 0.0f;
// Arrays of fewer than eight elements have another address space than larger ones.
#define ADD_SQUARES(array, place) \
  for (long i = first; i < counts[place]; i += threads) { \
    sum = fma(array[i], array[i], sum); \
  }
ADD_SQUARES(a0, 0)
ADD_SQUARES(a1, 1)
ADD_SQUARES(a2, 2)
ADD_SQUARES(a3, 3)
ADD_SQUARES(a4, 4)
ADD_SQUARES(a5, 5)
ADD_SQUARES(a6, 6)
ADD_SQUARES(a7, 7)
ADD_SQUARES(a8, 8)
ADD_SQUARES(a9, 9)
ADD_SQUARES(a10, 10)
ADD_SQUARES(a11, 11)
ADD_SQUARES(a12, 12)
ADD_SQUARES(a13, 13)
ADD_SQUARES(a14, 14)
ADD_SQUARES(a15, 15)
#undef ADD_SQUARES
sum = simd_sum(sum);
if (thread_index_in_simdgroup == 0) {
  parts[simdgroup_index_in_threadgroup] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_position_in_threadgroup.x == 0) {
  for (int i = 1; i < simdgroups; ++i) {
    sum += parts[i];
  }
  sums[threadgroup_position_in_grid.x] = sum;
}
