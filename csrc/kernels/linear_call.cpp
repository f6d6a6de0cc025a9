#include "kernels/linear_call.hpp"

#include <stdexcept>
#include <string>

#include "tiles/tensor_view.hpp"

namespace tilepress {

void run(const LinearCall& call, int threads) {
    const TensorView tensor = open_tensor(static_cast<const uint8_t*>(call.weight), call.weight_bytes,
                                          static_cast<const uint8_t*>(call.index), call.index_bytes, call.info, 5);
    const Geometry& geometry = tensor.geometry;
    if (geometry.n != call.n || geometry.k != call.k) {
        throw std::invalid_argument("the compressed weight is " + std::to_string(geometry.n) + " x " +
                                    std::to_string(geometry.k) + ", but x has " + std::to_string(call.k) +
                                    " columns and deq_scale " + std::to_string(call.n) + " entries");
    }
    const LinearArguments arguments{
        .x = call.x,
        .y = call.y,
        .y_stride = call.n,
        .type = call.type,
        .tokens = call.tokens,
        .input_scale = *call.input_scale,
        .input_offset = *call.input_offset,
        .deq_scale = call.deq_scale,
        .quant_bias = call.quant_bias,
        .weight_sums = call.weight_sums,
    };
    check_input_offset(arguments);
    linear(tensor, arguments, threads);
}

}  // namespace tilepress
