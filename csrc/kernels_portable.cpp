// The kernels for any processor.
#define TILEPRESS_TARGET portable
#include "simd_portable.hpp"
// after the operations it is written in
#include "multiply-inl.hpp"

namespace tilepress {

extern const Kernels kPortableKernels;
const Kernels kPortableKernels{portable::decode, portable::multiply};

}  // namespace tilepress
