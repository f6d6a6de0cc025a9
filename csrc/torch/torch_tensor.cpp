#include "torch/torch_tensor.hpp"

#include <stdexcept>

namespace tilepress {

TorchInterface torch;

Tensor empty(const std::vector<int64_t>& sizes, int32_t dtype) {
    std::vector<int64_t> strides(sizes.size());
    int64_t stride = 1;
    for (size_t d = sizes.size(); d-- > 0; stride *= sizes[d]) strides[d] = stride;
    TorchTensor* handle;
    check(torch.empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype, torch.cpu, 0,
                              &handle));
    return Tensor(handle);
}

std::string type_name(int32_t dtype) {
    const std::pair<int32_t, const char*> names[] = {
        {torch.uint8, "uint8"},       {torch.int8, "int8"},       {torch.int16, "int16"},
        {torch.int32, "int32"},       {torch.int64, "int64"},     {torch.float16, "float16"},
        {torch.bfloat16, "bfloat16"}, {torch.float32, "float32"}, {torch.float64, "float64"},
    };
    for (const auto& [code, name] : names) {
        if (code == dtype) return std::string("torch.") + name;
    }
    return "of type number " + std::to_string(dtype);
}

std::string list(const int64_t* values, int64_t count) {
    std::string text;
    for (int64_t i = 0; i < count; ++i) text += (i == 0 ? "" : ", ") + std::to_string(values[i]);
    return "[" + text + "]";
}

const Tensor& require(const char* name, const Tensor& tensor, int32_t dtype, int64_t length) {
    if (tensor.dtype() != dtype || tensor.numel() != length || !tensor.is_contiguous()) {
        throw std::invalid_argument(std::string(name) + " is " + type_name(tensor.dtype()) + " " +
                                    list(tensor.sizes(), tensor.dim()) + ", strides " +
                                    list(tensor.strides(), tensor.dim()) + "; " + type_name(dtype) + " [" +
                                    std::to_string(length) + "], contiguous, is needed");
    }
    return tensor;
}

}  // namespace tilepress
