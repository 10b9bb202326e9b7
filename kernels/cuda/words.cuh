// The words of ../metal/functions.metal in CUDA.

#define METAL_FUNC static __device__ __forceinline__
#define thread
#define UNROLL _Pragma("unroll")
