// Decoding and the linear kernel, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

#include "codec/decode.hpp"
#include "kernels/embed.hpp"
#include "kernels/linear_call.hpp"
#include "python/bindings.hpp"
#include "simd/isa.hpp"
#include "torch/torch_operator.hpp"

namespace nb = nanobind;

namespace tilepress {

namespace {

using Int8Array = nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int64Array = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

TensorView open_arrays(const Int8Array& weight, const Int8Array& index, const Int64Array& info) {
    return open_tensor(reinterpret_cast<const uint8_t*>(weight.data()), weight.size(),
                       reinterpret_cast<const uint8_t*>(index.data()), index.size(), info.data(), info.size());
}

void decode_tensor(const Int8Array& weight, const Int8Array& index, const Int64Array& info, const Matrix& out,
                   int threads) {
    const TensorView tensor = open_arrays(weight, index, info);
    const Geometry& geometry = tensor.geometry;
    if (static_cast<int64_t>(out.shape(0)) != geometry.n || static_cast<int64_t>(out.shape(1)) != geometry.k) {
        throw nb::value_error("out has another shape than the matrix");
    }
    const nb::gil_scoped_release unlocked;
    decode(tensor, threads, out.data());
}

void embed_ids(const Int64Array& ids, const Int8Array& weight, const Int8Array& index, const Int64Array& info,
               const FloatArray& weight_scale, const FloatMatrix& out, int threads) {
    const TensorView table = open_arrays(weight, index, info);
    const Geometry& geometry = table.geometry;
    const int64_t rows = static_cast<int64_t>(weight_scale.size()), columns = static_cast<int64_t>(out.shape(1));
    if (rows != geometry.n || columns != geometry.k) {
        const std::string message = "the embedding is " + std::to_string(geometry.n) + " x " +
                                    std::to_string(geometry.k) + ", but weight_scale has " + std::to_string(rows) +
                                    " entries and hidden is " + std::to_string(columns);
        throw nb::value_error(message.c_str());
    }
    if (out.shape(0) != ids.size()) throw nb::value_error("out needs a row for each of ids");
    const nb::gil_scoped_release unlocked;
    embed(table, ids.data(), static_cast<int64_t>(ids.size()), weight_scale.data(), out.data(), threads);
}

// Addresses instead of arrays: converting eight tensors would take longer than multiplying a small matrix.
void linear_at(uintptr_t x, uintptr_t y, int type, int64_t tokens, int64_t k, int64_t n, uintptr_t weight,
               uint64_t weight_bytes, uintptr_t index, uint64_t index_bytes, uintptr_t info, uintptr_t input_scale,
               uintptr_t input_offset, uintptr_t deq_scale, uintptr_t quant_bias, uintptr_t weight_sums, int threads) {
    const nb::gil_scoped_release unlocked;
    const LinearCall call{
        .x = reinterpret_cast<const void*>(x),
        .y = reinterpret_cast<void*>(y),
        .type = static_cast<FloatType>(type),
        .tokens = tokens,
        .k = k,
        .n = n,
        .weight = reinterpret_cast<const void*>(weight),
        .weight_bytes = weight_bytes,
        .index = reinterpret_cast<const void*>(index),
        .index_bytes = index_bytes,
        .info = reinterpret_cast<const int64_t*>(info),
        .input_scale = reinterpret_cast<const float*>(input_scale),
        .input_offset = reinterpret_cast<const int32_t*>(input_offset),
        .deq_scale = reinterpret_cast<const float*>(deq_scale),
        .quant_bias = reinterpret_cast<const int32_t*>(quant_bias),
        .weight_sums = reinterpret_cast<const int32_t*>(weight_sums),
    };
    run(call, threads);
}

nb::list available_isas() {
    nb::list names;
    for (const Isa& isa : isas()) {
        if (isa.available()) names.append(isa.name);
    }
    return names;
}

}  // namespace

void bind_kernels(nb::module_& m) {
    m.def("isa", [] { return isa().name; }, "The instruction set that the kernels use, as TILEPRESS_ISA names it.");
    m.def("isas", &available_isas, "The instruction sets that this processor has kernels for, best first.");
    m.def("decode", &decode_tensor, nb::arg("weight"), nb::arg("index"), nb::arg("info"), nb::arg("out").noconvert(),
          nb::arg("threads"), "Fills out, int8 [n, k]. Checks info, headers and escape counts; raises BitstreamError.");
    m.def("embed", &embed_ids, nb::arg("ids"), nb::arg("weight"), nb::arg("index"), nb::arg("info"),
          nb::arg("weight_scale"), nb::arg("out").noconvert(), nb::arg("threads"),
          "Fills out, float32 [ids, k], with the rows `ids` of the matrix [n, k], each times its weight_scale [n].");
    m.def(
        "linear", &linear_at,
        "For tilepress.kernels only, which checks types, shapes and layouts. Addresses of x [tokens, k] and y [tokens, "
        "n], their type (0 float32, 1 bfloat16, 2 float16), tokens, k, n, addresses and lengths of weight and index, "
        "addresses of info, input_scale, input_offset, deq_scale, quant_bias and weight_sums (0 to clamp), threads.");
    m.def("register_torch_operators", &register_torch_operators, nb::arg("library"),
          "Registers the operators for the CPU with the torch whose libtorch_cpu is the loaded library at this path. "
          "False where that torch lacks the stable C interface (older than 2.10).");
}

}  // namespace tilepress
