/* Stand-ins for the CUDA libraries that torchaudio's extension names, so that the loader accepts it beside a CPU build
 * of torch. No function here is reached by a CPU tensor; one that were would say "no CUDA device" (100). */
#define NO_DEVICE(name) int name(void) { return 100; }

static void *binary;
void **__cudaRegisterFatBinary(void *unused) { (void)unused; return &binary; }
void __cudaRegisterFatBinaryEnd(void **unused) { (void)unused; }
void __cudaUnregisterFatBinary(void **unused) { (void)unused; }
void __cudaRegisterFunction(void) {}
void __cudaRegisterVar(void) {}
const char *cudaGetErrorName(int unused) { (void)unused; return "no CUDA device"; }

NO_DEVICE(__cudaGetKernel)
NO_DEVICE(__cudaLaunchKernel)
NO_DEVICE(__cudaPopCallConfiguration)
NO_DEVICE(__cudaPushCallConfiguration)
NO_DEVICE(cudaGetLastError)
NO_DEVICE(cudaMemcpy2DAsync)
NO_DEVICE(cudaMemcpyAsync)
NO_DEVICE(cudaMemset)
NO_DEVICE(cudaMemsetAsync)
NO_DEVICE(cudaSetDevice)
NO_DEVICE(cudaStreamSynchronize)
NO_DEVICE(aoti_torch_get_current_cuda_stream)
NO_DEVICE(torch_c10_cuda_check_msg)
NO_DEVICE(torch_c10_cuda_free_error_msg)
NO_DEVICE(torch_cuda_stream_synchronize)
NO_DEVICE(torch_get_cuda_stream_from_pool)
NO_DEVICE(torch_set_current_cuda_stream)
