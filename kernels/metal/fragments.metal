// 8x8 fragments of simdgroup_matrix, filled element by element so that tiles may be stored in the
// dtype of the activations and read transposed.

// Position of the first of the two elements (row, column) and (row, column + 1) of a lane.
METAL_FUNC short2 place_of(short lane) {
  const short quad = lane / 4;
  return short2((quad & 2) * 2 + (lane % 2) * 2, (quad & 4) + (lane / 2) % 4);  // column, row
}

// element (i, j) = from[i * down + j * right]
template <typename From>
METAL_FUNC simdgroup_float8x8 load8x8(From from, int down, int right, short2 place) {
  simdgroup_float8x8 out;
  const int at = place.y * down + place.x * right;
  out.thread_elements()[0] = float(from[at]);
  out.thread_elements()[1] = float(from[at + right]);
  return out;
}

METAL_FUNC simdgroup_float8x8 zero8x8() {
  simdgroup_float8x8 out;
  out.thread_elements()[0] = 0.0f;
  out.thread_elements()[1] = 0.0f;
  return out;
}

// Multiplies the two columns of a lane by `left` and `right`.
METAL_FUNC simdgroup_float8x8 scale8x8(simdgroup_float8x8 in, float left, float right) {
  simdgroup_float8x8 out;
  out.thread_elements()[0] = in.thread_elements()[0] * left;
  out.thread_elements()[1] = in.thread_elements()[1] * right;
  return out;
}
