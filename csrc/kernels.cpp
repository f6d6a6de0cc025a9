#include "kernels.hpp"

namespace tilepress {

extern const Kernels kPortableKernels;
#ifdef __x86_64__
extern const Kernels kAvx2Kernels;
#endif

const Kernels& kernels(Isa isa) {
#ifdef __x86_64__
    if (isa == Isa::avx2) return kAvx2Kernels;
#endif
    (void)isa;
    return kPortableKernels;
}

Workspace& workspace() {
    static thread_local Workspace own;
    return own;
}

}  // namespace tilepress
