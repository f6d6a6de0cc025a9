// Operators on the CPU as native code that torch calls, where torch can.
#pragma once

#include "torch/torch_interface.hpp"

namespace tilepress {

// Registers tilepress::linear with the torch whose libtorch_cpu is at `library` and loaded.
// False, and nothing is registered, where that torch is older than 2.10 or has no such library.
bool register_torch_operators(const char* library);

}  // namespace tilepress
