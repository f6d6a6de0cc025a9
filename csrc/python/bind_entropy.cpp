// Python's view of the entropy-coded form: _native.encode_entropy, _native.check_entropy, _native.decode_entropy.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <vector>

#include "codec/entropy_decode.hpp"
#include "codec/entropy_encode.hpp"
#include "codec/entropy_format.hpp"
#include "python/bindings.hpp"
#include "tiles/geometry.hpp"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace tilepress {

namespace {

using Matrix = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Info = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::object new_bytes(std::vector<uint8_t> bytes) {
    auto kept = std::make_unique<std::vector<uint8_t>>(std::move(bytes));
    nb::capsule owner(kept.get(), [](void* p) noexcept { delete static_cast<std::vector<uint8_t>*>(p); });
    std::vector<uint8_t>* const vector = kept.release();
    return nb::cast(nb::ndarray<nb::numpy, int8_t, nb::ndim<1>>(vector->data(), {vector->size()}, owner));
}

nb::tuple encode(Matrix matrix, int threads) {
    const int64_t n = static_cast<int64_t>(matrix.shape(0)), k = static_cast<int64_t>(matrix.shape(1));
    if (n < 1 || k < 1 || n > kMaxDimension || k > kMaxDimension) {
        throw nb::value_error("a matrix to encode has 1 to 2^31 - 1 rows and columns");
    }
    EntropyBytes bytes;
    {
        nb::gil_scoped_release unlocked;
        bytes = encode_entropy(matrix.data(), n, k, threads);
    }
    return nb::make_tuple(new_bytes(std::move(bytes.weight)), new_bytes(std::move(bytes.index)), bytes.block_rows);
}

EntropyTensor open(const Bytes& weight, const Bytes& index, const Info& info) {
    return open_entropy(reinterpret_cast<const uint8_t*>(weight.data()), weight.size(),
                        reinterpret_cast<const uint8_t*>(index.data()), index.size(), info.data(), info.size());
}

void check(Bytes weight, Bytes index, Info info) {
    nb::gil_scoped_release unlocked;
    check_entropy(open(weight, index, info));
}

void decode(Bytes weight, Bytes index, Info info, Out out, int threads) {
    const EntropyTensor tensor = open(weight, index, info);
    if (static_cast<int64_t>(out.shape(0)) != tensor.n || static_cast<int64_t>(out.shape(1)) != tensor.k) {
        throw nb::value_error("out has another shape than the matrix");
    }
    nb::gil_scoped_release unlocked;
    decode_entropy(tensor, threads, out.data());
}

}  // namespace

void bind_entropy(nb::module_& m) {
    m.def("encode_entropy", &encode, "matrix"_a.noconvert(), "threads"_a,
          "int8 matrix [n, k] to (weight int8 [x], index int8 [y], rows of a block).");
    m.def("check_entropy", &check, "weight"_a.noconvert(), "index"_a.noconvert(), "info"_a.noconvert(),
          "Raises BitstreamError unless info, index, the head and the headers of all blocks are sound.");
    m.def("decode_entropy", &decode, "weight"_a.noconvert(), "index"_a.noconvert(), "info"_a.noconvert(),
          "out"_a.noconvert(), "threads"_a, "Fills out, int8 [n, k]. Raises BitstreamError for damage.");
}

}  // namespace tilepress
