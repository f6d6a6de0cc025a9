// tilepress::attend as torch calls it.
#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/attention.hpp"
#include "torch/torch_operator.hpp"
#include "torch/torch_tensor.hpp"

namespace tilepress {

namespace {

Tensor apply(const std::array<Tensor, 4>& tensors, int64_t length, int64_t queries) {
    const auto& [rows, cos, sin, cache] = tensors;
    const int64_t dims = cache.dim();
    const int64_t* const shape = cache.sizes();
    const bool one_sequence = dims == 5 && shape[0] == 2 && shape[1] == 1;
    const int64_t heads = one_sequence ? shape[2] : 0, room = one_sequence ? shape[3] : 0;
    const int64_t size = one_sequence ? shape[4] : 0;
    if (heads == 0 || size == 0 || size % 8 != 0) {
        throw std::invalid_argument("cache is " + list(shape, dims) +
                                    "; [2, 1, heads, room, size] is needed, size a multiple of 8");
    }
    if (queries < 1 || queries % heads != 0) {
        throw std::invalid_argument("queries is " + std::to_string(queries) + ", no multiple of the cache's " +
                                    std::to_string(heads) + " heads");
    }
    if (length < 0 || length >= room) {
        throw std::invalid_argument("length is " + std::to_string(length) + ", the cache has room for " +
                                    std::to_string(room) + " tokens");
    }
    float* const keys = require("cache", cache, torch.float32, 2 * heads * room * size).data<float>();
    Tensor y = empty({queries * size}, torch.float32);
    const AttentionArguments arguments{
        .rows = require("rows", rows, torch.float32, (queries + 2 * heads) * size).data<float>(),
        .cos = require("cos", cos, torch.float32, size).data<float>(),
        .sin = require("sin", sin, torch.float32, size).data<float>(),
        .keys = keys,
        .values = keys + heads * room * size,
        .y = y.data<float>(),
        .queries = queries,
        .heads = heads,
        .size = size,
        .room = room,
        .length = length,
    };
    uint32_t threads;
    check(torch.threads(&threads));
    attend(arguments, static_cast<int>(threads));
    return y;
}

}  // namespace

void attend_kernel(TorchValue* stack, uint64_t, uint64_t) {
    const auto argument = [&](size_t i) { return Tensor(reinterpret_cast<TorchTensor*>(stack[i])); };
    stack[0] = reinterpret_cast<TorchValue>(apply({argument(0), argument(1), argument(2), argument(3)},
                                                  static_cast<int64_t>(stack[4]), static_cast<int64_t>(stack[5]))
                                                .release());
}

}  // namespace tilepress
