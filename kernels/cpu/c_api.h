/* The C interface of the CPU kernels, from which bindgen makes the declarations that Rust calls.
 *
 * Functions that return an int return 0, or 1 and leave a text for `mlx_llamba_error`. Those that
 * make arrays write them to `out`; the caller owns them. They trust the caller to have checked
 * shapes and dtypes. This header includes nothing, so that a libclang without a compiler reads it.
 */
#ifndef MLX_LLAMBA_C_API_H
#define MLX_LLAMBA_C_API_H

#ifdef __cplusplus
extern "C" {
#endif

/* The `ctx` of mlx-c's mlx_array: an mlx::core::array. */
typedef struct mlx_llamba_array mlx_llamba_array;
/* The `ctx` of mlx-c's mlx_stream: an mlx::core::Stream. */
typedef struct mlx_llamba_stream mlx_llamba_stream;
typedef __SIZE_TYPE__ mlx_llamba_size;

/* Returns the text of this thread's last error, valid until its next one. */
const char* mlx_llamba_error(void);

/* Returns the name of the instruction set in use. */
const char* mlx_llamba_simd(void);
/* Uses another instruction set from now on; fails if this machine lacks it. For tests. */
int mlx_llamba_set_simd(const char* name);
/* Returns 1 if this machine has the instruction set. */
int mlx_llamba_has_simd(const char* name);
/* Returns the number of threads that share the work of an operation. */
int mlx_llamba_threads(void);
/* Uses this many threads from now on, 1 to 256. For tests and benchmarks. */
void mlx_llamba_set_threads(int count);

/* Ends the process with a line of error and status 1 where C++ would end it with a signal. Starts `count`
 * threads at once, for a trial, and returns the number of those that the system gave. */
int mlx_llamba_guard_process(int count);

/* Asks the system for huge pages for memory that was not written yet. */
void mlx_llamba_huge_pages(const void* memory, mlx_llamba_size size);

/* Reads `count` floats once with all threads and writes the sum of all whole parts of 2^18. */
int mlx_llamba_read_memory(const float* from, mlx_llamba_size count, float* sum);

/* Calls `visit(context, name)` for every operation that evaluating `outputs` would run, inputs
 * first. */
int mlx_llamba_operations(
    const mlx_llamba_array* const* outputs, mlx_llamba_size count, void (*visit)(void* context, const char* name),
    void* context);

/* How a matrix is stored: its bits and group, 0 for a dense one, and the number of its outputs if it is
 * packed (see `packed.h`), else 0. */
typedef struct {
  int bits, group, packed;
} mlx_llamba_coding;

/* x (.., in) f32 and weight (out, in), or codes with scales and biases, to (.., out) f32. */
typedef struct {
  const mlx_llamba_array* x;
  const mlx_llamba_array* weight;
  const mlx_llamba_array* scales; /* null for a dense weight */
  const mlx_llamba_array* biases; /* null for a dense weight */
  mlx_llamba_coding coding;
  int int8; /* 1: activations are rounded to int8; a packed weight only */
} mlx_llamba_matmul_args;
int mlx_llamba_matmul(const mlx_llamba_matmul_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* A part of a matrix of codes, (out, n) of 2 or 4 bytes, in tiles: (tiles, n, 16). */
int mlx_llamba_pack(const mlx_llamba_array* part, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* Rows `ids` (..) u32 of a packed matrix, dequantized: (.., in) f32. Ids past the last read the last. */
typedef struct {
  const mlx_llamba_array* ids;
  const mlx_llamba_array* weight;
  const mlx_llamba_array* scales;
  const mlx_llamba_array* biases;
  mlx_llamba_coding coding;
} mlx_llamba_rows_args;
int mlx_llamba_rows(const mlx_llamba_rows_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

typedef struct {
  int h, g, p, n, k;
} mlx_llamba_dims;

/* Everything between a mixer's projections; float32, but `lengths`, which is int32. Writes y, conv and
 * ssm. */
typedef struct {
  const mlx_llamba_array* rows;
  const mlx_llamba_array* conv;
  const mlx_llamba_array* ssm;
  const mlx_llamba_array* conv_weight;
  const mlx_llamba_array* D;
  const mlx_llamba_array* A_log; /* or null */
  const mlx_llamba_array* lengths; /* or null */
  const mlx_llamba_array* conv_bias; /* or null */
  const mlx_llamba_array* z_bias; /* or null */
  mlx_llamba_dims dims;
  int silu; /* 1: the activation after the convolution is SiLU, else none */
} mlx_llamba_mixer_args;
int mlx_llamba_mixer(const mlx_llamba_mixer_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* A matrix with its bias. */
typedef struct {
  const mlx_llamba_array* weight;
  const mlx_llamba_array* scales; /* null for a dense weight */
  const mlx_llamba_array* biases; /* null for a dense weight */
  const mlx_llamba_array* bias; /* or null */
  mlx_llamba_coding coding;
} mlx_llamba_linear;

/* A block: its norms, matrices and state; everything but the matrices float32. */
typedef struct {
  const mlx_llamba_array* mixer_norm;
  const mlx_llamba_array* mlp_norm;
  mlx_llamba_linear in_proj;
  const mlx_llamba_linear* A_log_proj; /* or null */
  mlx_llamba_linear out_proj;
  mlx_llamba_linear gate; /* without `up` of both, the gate first */
  const mlx_llamba_linear* up; /* or null */
  mlx_llamba_linear down;
  const mlx_llamba_array* conv_weight;
  const mlx_llamba_array* D;
  const mlx_llamba_array* conv_bias; /* or null */
  const mlx_llamba_array* z_bias; /* or null */
  const mlx_llamba_array* conv;
  const mlx_llamba_array* ssm;
} mlx_llamba_block;

/* All blocks of a model between the embedding x (b, l, d) f32 and the final norm. Writes the norm
 * (b, l, d), then conv and ssm of every block. */
typedef struct {
  const mlx_llamba_array* x;
  const mlx_llamba_array* lengths; /* (b,) int32, or null */
  const mlx_llamba_array* final_norm;
  const mlx_llamba_block* blocks;
  mlx_llamba_size count;
  mlx_llamba_dims dims;
  int silu; /* as of a mixer */
  int int8; /* as of a matrix multiplication, for packed matrices */
  float epsilon, final_epsilon;
} mlx_llamba_blocks_args;
int mlx_llamba_blocks(
    const mlx_llamba_blocks_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* gate_up (.., 2m) f32 to (.., m). */
int mlx_llamba_swiglu(const mlx_llamba_array* gate_up, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* gate and up (.., m) f32 to silu(gate) * up. */
typedef struct {
  const mlx_llamba_array* gate;
  const mlx_llamba_array* up;
} mlx_llamba_gate_args;
int mlx_llamba_gate(const mlx_llamba_gate_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* x f32 to e^x. */
int mlx_llamba_exp(const mlx_llamba_array* x, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* x (.., n) f32 to its softmax over the last axis. */
int mlx_llamba_softmax(const mlx_llamba_array* x, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* x and y (.., d), weight (d,), f32. Writes x + y and its norm; without y only the norm of x. */
typedef struct {
  const mlx_llamba_array* x;
  const mlx_llamba_array* y; /* or null */
  const mlx_llamba_array* weight;
  float epsilon;
} mlx_llamba_rms_norm_args;
int mlx_llamba_rms_norm(
    const mlx_llamba_rms_norm_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* The weights of a comparison of logits with a teacher's at a temperature, and with any next token. */
typedef struct {
  float temperature, teacher_weight, next_weight;
} mlx_llamba_comparison;

/* logits (m, v) with m, v > 0 and a teacher's, f32. Writes gradients (m, v) and sums (m, 3). */
typedef struct {
  const mlx_llamba_array* logits;
  const mlx_llamba_array* teacher; /* or null */
  mlx_llamba_comparison how;
} mlx_llamba_cross_entropy_args;
int mlx_llamba_cross_entropy(
    const mlx_llamba_cross_entropy_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

/* The factors of a step of AdamW: see `adamw.h`. */
typedef struct {
  float beta1, beta2, root, epsilon, rate, kept;
} mlx_llamba_adamw_factors;

/* Four arrays of one shape, and a scalar, f32. Writes the new parameter, m and v. */
typedef struct {
  const mlx_llamba_array* parameter;
  const mlx_llamba_array* gradient;
  const mlx_llamba_array* m;
  const mlx_llamba_array* v;
  const mlx_llamba_array* scale;
  mlx_llamba_adamw_factors how;
} mlx_llamba_adamw_args;
int mlx_llamba_adamw(const mlx_llamba_adamw_args* args, const mlx_llamba_stream* stream, mlx_llamba_array** out);

#ifdef __cplusplus
}
#endif

#endif
