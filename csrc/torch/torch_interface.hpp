// Torch's stable C interface, looked up in the torch that is loaded: the extension is built without torch.
#pragma once

#include <cstdint>

namespace tilepress {

// As torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h have them. Functions return 0 for success.
struct TorchTensor;
struct TorchLibrary;
using TorchValue = uint64_t;  // an argument or a result of an operator; for tensors an owned TorchTensor*
using TorchKernel = void (*)(TorchValue* stack, uint64_t arguments, uint64_t results);

struct TorchInterface {
    // Of the interface that this code is written for: torch 2.10. Later versions of torch keep to it.
    static constexpr uint64_t kVersion = uint64_t{2} << 56 | uint64_t{10} << 48;

    int32_t (*delete_tensor)(TorchTensor*);
    int32_t (*data)(TorchTensor*, void**);
    int32_t (*dtype)(TorchTensor*, int32_t*);
    int32_t (*dim)(TorchTensor*, int64_t*);
    int32_t (*sizes)(TorchTensor*, int64_t**);
    int32_t (*strides)(TorchTensor*, int64_t**);
    int32_t (*numel)(TorchTensor*, int64_t*);
    int32_t (*is_contiguous)(TorchTensor*, bool*);
    int32_t (*empty_strided)(int64_t dim, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                             int32_t device_type, int32_t device_index, TorchTensor**);
    int32_t (*copy)(TorchTensor* to, TorchTensor* from, int32_t non_blocking);
    int32_t (*threads)(uint32_t*);
    int32_t (*new_library)(const char* space, const char* key, const char* file, uint32_t line, TorchLibrary**);
    int32_t (*implement)(TorchLibrary*, const char* name, TorchKernel, uint64_t version);

    int32_t cpu;
    int32_t uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64;

    // False where `library`, a path, is not loaded or lacks a function: torch before 2.10.
    bool load(const char* library);
};

// Throws std::runtime_error for another value than 0.
void check(int32_t error);

}  // namespace tilepress
