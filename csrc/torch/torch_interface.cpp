#include "torch/torch_interface.hpp"

#include <dlfcn.h>

#include <stdexcept>

namespace tilepress {

bool TorchInterface::load(const char* library) {
    void* const handle = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    if (handle == nullptr) return false;
    bool complete = true;
    const auto find = [&]<typename Function>(Function*& function, const char* name) {
        function = reinterpret_cast<Function*>(dlsym(handle, name));
        complete = complete && function != nullptr;
    };
    find(delete_tensor, "aoti_torch_delete_tensor_object");
    find(data, "aoti_torch_get_data_ptr");
    find(dtype, "aoti_torch_get_dtype");
    find(dim, "aoti_torch_get_dim");
    find(sizes, "aoti_torch_get_sizes");
    find(strides, "aoti_torch_get_strides");
    find(numel, "aoti_torch_get_numel");
    find(is_contiguous, "aoti_torch_is_contiguous");
    find(empty_strided, "aoti_torch_empty_strided");
    find(copy, "aoti_torch_copy_");
    find(threads, "torch_get_num_threads");
    find(new_library, "aoti_torch_library_init_impl");
    find(implement, "torch_library_impl");

    const auto find_code = [&](int32_t& code, const char* name) {
        int32_t (*get)();
        find(get, name);
        if (get != nullptr) code = get();
    };
    find_code(cpu, "aoti_torch_device_type_cpu");
    find_code(uint8, "aoti_torch_dtype_uint8");
    find_code(int8, "aoti_torch_dtype_int8");
    find_code(int16, "aoti_torch_dtype_int16");
    find_code(int32, "aoti_torch_dtype_int32");
    find_code(int64, "aoti_torch_dtype_int64");
    find_code(float16, "aoti_torch_dtype_float16");
    find_code(bfloat16, "aoti_torch_dtype_bfloat16");
    find_code(float32, "aoti_torch_dtype_float32");
    find_code(float64, "aoti_torch_dtype_float64");
    return complete;
}

void check(int32_t error) {
    if (error != 0) throw std::runtime_error("a call of torch's C interface failed");
}

}  // namespace tilepress
