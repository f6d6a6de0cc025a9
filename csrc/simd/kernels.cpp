#include "simd/kernels.hpp"

namespace tilepress {

Workspace& workspace() {
    static thread_local Workspace own;
    return own;
}

}  // namespace tilepress
