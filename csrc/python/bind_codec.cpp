// Python's view of the codec: _native.encode, _native.check_index, _native.validate.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>

#include "codec/encode.hpp"
#include "codec/resident.hpp"
#include "python/bindings.hpp"
#include "tiles/tensor_view.hpp"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace tilepress {

namespace {

using Matrix = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<const int8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Info = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using NewBytes = nb::ndarray<nb::numpy, int8_t, nb::ndim<1>>;

NewBytes give_to_python(std::unique_ptr<uint8_t[]> bytes, size_t length) {
    nb::capsule owner(bytes.get(), [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    return NewBytes(bytes.release(), {length}, owner);
}

Geometry geometry_of(const Matrix& matrix, int64_t tiling_n, int64_t tiling_k) {
    const int64_t n = static_cast<int64_t>(matrix.shape(0)), k = static_cast<int64_t>(matrix.shape(1));
    if (n < 1 || k < 1 || n > kMaxDimension || k > kMaxDimension) {
        throw nb::value_error("a matrix to encode has 1 to 2^31 - 1 rows and columns");
    }
    if (tiling_n < 1 || tiling_k < 1 || tiling_n > kMaxTileFractals || tiling_k > kMaxTileFractals ||
        tiling_n * tiling_k > kMaxTileFractals) {
        throw nb::value_error("a tile has 1 to 64 fractals");
    }
    return {n, k, tiling_n, tiling_k};
}

nb::tuple encode(Matrix matrix, int64_t tiling_n, int64_t tiling_k, int threads) {
    const Geometry geometry = geometry_of(matrix, tiling_n, tiling_k);
    const size_t index_bytes = static_cast<size_t>(8 * geometry.tiles());
    std::unique_ptr<uint8_t[]> weight, index(new uint8_t[index_bytes]);
    size_t length;
    {
        nb::gil_scoped_release unlocked;
        const std::vector<TilePlan> plans = plan_tiles(matrix.data(), geometry, threads);
        length = static_cast<size_t>(weight_bytes(plans));
        weight.reset(new uint8_t[length]);
        write_tiles(matrix.data(), geometry, plans, threads, weight.get(), index.get());
    }
    return nb::make_tuple(give_to_python(std::move(weight), length), give_to_python(std::move(index), index_bytes));
}

nb::tuple encode_resident(Matrix matrix, int64_t tiling_n, int64_t tiling_k, int threads) {
    const Geometry geometry = geometry_of(matrix, tiling_n, tiling_k);
    std::unique_ptr<uint8_t[]> weight, index;
    size_t of_weight, of_index;
    {
        nb::gil_scoped_release unlocked;
        const std::vector<ResidentPlan> plans = plan_resident(matrix.data(), geometry, threads);
        of_weight = static_cast<size_t>(weight_bytes(plans));
        of_index = static_cast<size_t>(index_bytes(plans));
        weight.reset(new uint8_t[of_weight]);
        index.reset(new uint8_t[of_index]);
        write_resident(matrix.data(), geometry, plans, threads, weight.get(), index.get());
    }
    return nb::make_tuple(give_to_python(std::move(weight), of_weight), give_to_python(std::move(index), of_index));
}

template <void check(const TensorView&)>
void check_arrays(Bytes weight, Bytes index, Info info) {
    const TensorView tensor =
        open_tensor(reinterpret_cast<const uint8_t*>(weight.data()), weight.size(),
                    reinterpret_cast<const uint8_t*>(index.data()), index.size(), info.data(), info.size());
    nb::gil_scoped_release unlocked;
    check(tensor);
}

}  // namespace

void bind_codec(nb::module_& m) {
    m.def("encode", &encode, "matrix"_a.noconvert(), "tiling_n"_a, "tiling_k"_a, "threads"_a,
          "int8 matrix [n, k] to (weight int8 [x], index int8 [y]).");
    m.def("encode_resident", &encode_resident, "matrix"_a.noconvert(), "tiling_n"_a, "tiling_k"_a, "threads"_a,
          "int8 matrix [n, k] to (weight int8 [x], index int8 [y]) of the resident form.");
    m.def("check_index", &check_arrays<check_index>, "weight"_a.noconvert(), "index"_a.noconvert(),
          "info"_a.noconvert(), "Raises BitstreamError unless info and index are sound; tiles are not touched.");
    m.def("validate", &check_arrays<validate>, "weight"_a.noconvert(), "index"_a.noconvert(), "info"_a.noconvert(),
          "Raises BitstreamError unless info, index and every tile's header are sound.");
}

}  // namespace tilepress
