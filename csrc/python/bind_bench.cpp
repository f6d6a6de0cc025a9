// What the benchmarks compare with, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "bench/bandwidth.hpp"
#include "bench/dense_int8.hpp"
#include "python/bindings.hpp"

namespace nb = nanobind;

namespace tilepress {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int8Matrix = nb::ndarray<const int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Packed = nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>;
using Sums = nb::ndarray<nb::numpy, int32_t, nb::ndim<2>>;

uint64_t read(const Bytes& data, int threads) {
    const nb::gil_scoped_release unlocked;
    return read_memory(data.data(), static_cast<int64_t>(data.size()), threads);
}

void require_whole_blocks(int64_t n, int64_t k) {
    if (n % kDenseRows != 0 || k % kDenseColumns != 0) {
        throw std::invalid_argument("a dense int8 matrix is " + std::to_string(n) + " x " + std::to_string(k) +
                                    "; rows and columns have to be multiples of 16");
    }
}

Packed pack(const Int8Matrix& matrix) {
    const int64_t n = static_cast<int64_t>(matrix.shape(0)), k = static_cast<int64_t>(matrix.shape(1));
    require_whole_blocks(n, k);
    const size_t size = static_cast<size_t>(n * k);
    std::unique_ptr<uint8_t[]> packed(new uint8_t[size]);
    pack_dense_int8(matrix.data(), n, k, packed.get());
    const nb::capsule owner(packed.get(), [](void* p) noexcept { delete[] static_cast<uint8_t*>(p); });
    return Packed(packed.release(), {size}, owner);
}

Sums multiply(const Int8Matrix& x, const Bytes& packed, int64_t n, int threads) {
    const int64_t tokens = static_cast<int64_t>(x.shape(0)), k = static_cast<int64_t>(x.shape(1));
    require_whole_blocks(n, k);
    if (static_cast<int64_t>(packed.size()) != n * k) {
        throw std::invalid_argument("the packed weights are " + std::to_string(packed.size()) + " bytes, not " +
                                    std::to_string(n) + " x " + std::to_string(k));
    }
    std::unique_ptr<int32_t[]> y(new int32_t[static_cast<size_t>(tokens * n)]);
    {
        const nb::gil_scoped_release unlocked;
        dense_int8(packed.data(), n, k, x.data(), tokens, y.get(), threads);
    }
    const nb::capsule owner(y.get(), [](void* p) noexcept { delete[] static_cast<int32_t*>(p); });
    return Sums(y.release(), {static_cast<size_t>(tokens), static_cast<size_t>(n)}, owner);
}

}  // namespace

void bind_bench(nb::module_& m) {
    m.def("read_memory", &read, nb::arg("data"), nb::arg("threads"),
          "Reads the bytes once, on so many threads, and returns the exclusive or of their 64-bit words.");
    m.def("dense_int8_is_fast", &dense_int8_is_fast, "Whether dense_int8 runs with AVX-512 VNNI here.");
    m.def("pack_dense_int8", &pack, nb::arg("matrix"),
          "An int8 matrix [n, k] in the order that dense_int8 multiplies. Raises ValueError unless n and k are "
          "multiples of 16.");
    m.def("dense_int8", &multiply, nb::arg("x"), nb::arg("packed"), nb::arg("n"), nb::arg("threads"),
          "int32 [tokens, n]: x int8 [tokens, k] times the transposed matrix that was packed.");
}

}  // namespace tilepress
