#include "torch_operator.hpp"

#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bitstream_error.hpp"
#include "linear_call.hpp"
#include "torch_interface.hpp"

namespace tilepress {

namespace {

TorchInterface torch;

class Tensor {
  public:
    explicit Tensor(TorchTensor* handle) : handle_(handle) {}
    Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Tensor& operator=(Tensor&& other) noexcept {
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~Tensor() {
        if (handle_ != nullptr) torch.delete_tensor(handle_);
    }

    TorchTensor* handle() const { return handle_; }
    TorchTensor* release() { return std::exchange(handle_, nullptr); }

    int32_t dtype() const { return get(torch.dtype, int32_t{}); }
    int64_t dim() const { return get(torch.dim, int64_t{}); }
    int64_t numel() const { return get(torch.numel, int64_t{}); }
    bool is_contiguous() const { return get(torch.is_contiguous, bool{}); }
    const int64_t* sizes() const { return get(torch.sizes, static_cast<int64_t*>(nullptr)); }
    const int64_t* strides() const { return get(torch.strides, static_cast<int64_t*>(nullptr)); }

    template <typename T = void>
    T* data() const {
        return static_cast<T*>(get(torch.data, static_cast<void*>(nullptr)));
    }

  private:
    template <typename Getter, typename T>
    T get(Getter getter, T value) const {
        check(getter(handle_, &value));
        return value;
    }

    TorchTensor* handle_;
};

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

FloatType float_type(const Tensor& x) {
    const int32_t dtype = x.dtype();
    if (x.dim() > 0) {
        if (dtype == torch.float32) return FloatType::float32;
        if (dtype == torch.bfloat16) return FloatType::bfloat16;
        if (dtype == torch.float16) return FloatType::float16;
    }
    throw std::invalid_argument("x is " + type_name(dtype) + " " + list(x.sizes(), x.dim()) +
                                "; float32, bfloat16 or float16 [..., k] is needed");
}

Tensor apply(std::array<Tensor, 9> tensors) {
    auto& [x, weight, index, info, input_scale, input_offset, deq_scale, quant_bias, weight_sums] = tensors;
    const FloatType type = float_type(x);
    std::vector<int64_t> sizes(x.sizes(), x.sizes() + x.dim());
    if (!x.is_contiguous()) {
        Tensor copy = empty(sizes, x.dtype());
        check(torch.copy(copy.handle(), x.handle(), 0));
        x = std::move(copy);
    }
    const int64_t k = sizes.back(), n = deq_scale.numel();
    sizes.back() = n;
    Tensor y = empty(sizes, x.dtype());
    const LinearCall call{
        .x = x.data(),
        .y = y.data(),
        .type = type,
        .tokens = k == 0 ? 0 : x.numel() / k,
        .k = k,
        .n = n,
        .weight = require("weight", weight, torch.int8, weight.numel()).data(),
        .weight_bytes = static_cast<uint64_t>(weight.numel()),
        .index = require("index", index, torch.int8, index.numel()).data(),
        .index_bytes = static_cast<uint64_t>(index.numel()),
        .info = require("info", info, torch.int64, 5).data<int64_t>(),
        .input_scale = require("input_scale", input_scale, torch.float32, 1).data<float>(),
        .input_offset = require("input_offset", input_offset, torch.int32, 1).data<int32_t>(),
        .deq_scale = require("deq_scale", deq_scale, torch.float32, n).data<float>(),
        .quant_bias = require("quant_bias", quant_bias, torch.int32, n).data<int32_t>(),
        .weight_sums =
            weight_sums.numel() == 0 ? nullptr : require("weight_sums", weight_sums, torch.int32, n).data<int32_t>(),
    };
    uint32_t threads;
    check(torch.threads(&threads));
    run(call, static_cast<int>(threads));
    return y;
}

// Torch makes ValueError of std::invalid_argument and RuntimeError of every exception that it does not know;
// tilepress.kernels tells damage from other errors by this prefix.
void kernel(TorchValue* stack, uint64_t, uint64_t) {
    const auto argument = [&](size_t i) { return Tensor(reinterpret_cast<TorchTensor*>(stack[i])); };
    try {
        stack[0] = reinterpret_cast<TorchValue>(apply({argument(0), argument(1), argument(2), argument(3), argument(4),
                                                       argument(5), argument(6), argument(7), argument(8)})
                                                    .release());
    } catch (const BitstreamError& error) {
        throw std::runtime_error(std::string("BitstreamError: ") + error.what());
    }
}

}  // namespace

bool register_torch_operator(const char* library) {
    if (!torch.load(library)) return false;
    TorchLibrary* registration;  // kept for as long as the process lives, as the operator is
    check(torch.new_library("tilepress", "CPU", __FILE__, __LINE__, &registration));
    check(torch.implement(registration, "linear", &kernel, TorchInterface::kVersion));
    return true;
}

}  // namespace tilepress
