#include "torch/torch_operator.hpp"

#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels/linear_call.hpp"
#include "tiles/bitstream_error.hpp"
#include "torch/torch_tensor.hpp"

namespace tilepress {

namespace {

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

bool register_torch_operators(const char* library) {
    if (!torch.load(library)) return false;
    TorchLibrary* registration;  // kept for as long as the process lives, as the operator is
    check(torch.new_library("tilepress", "CPU", __FILE__, __LINE__, &registration));
    check(torch.implement(registration, "linear", &kernel, TorchInterface::kVersion));
    return true;
}

}  // namespace tilepress
