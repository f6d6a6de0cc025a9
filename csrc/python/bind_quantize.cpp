// What quantization runs natively, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <string>
#include <vector>

#include "python/bindings.hpp"
#include "rounding/rounding.hpp"
#include "tiles/geometry.hpp"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace tilepress {

namespace {

using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Order = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename Array>
void require_shape(const char* name, const Array& array, std::initializer_list<int64_t> shape) {
    bool equal = true;
    size_t axis = 0;
    std::string text;
    for (const int64_t size : shape) {
        equal &= static_cast<int64_t>(array.shape(axis++)) == size;
        text += (text.empty() ? "" : ", ") + std::to_string(size);
    }
    if (!equal) throw nb::value_error((std::string(name) + " has to be [" + text + "]").c_str());
}

template <typename Array>
void require_finite(const char* name, const Array& array) {
    const float* const values = array.data();
    // Zero times a finite number is zero, and times any other it is not: no branch, so that this runs in vectors.
    float sums[16] = {};
    for (size_t i = 0; i < array.size(); ++i) sums[i % 16] += 0.0f * values[i];
    for (const float sum : sums) {
        if (sum != 0.0f) throw nb::value_error((std::string(name) + " has values that are not finite").c_str());
    }
}

void require_permutation(const Order& order) {
    const int64_t columns = static_cast<int64_t>(order.size());
    std::vector<bool> seen(order.size());
    for (int64_t i = 0; i < columns; ++i) {
        const int64_t column = order.data()[i];
        if (column < 0 || column >= columns || seen[static_cast<size_t>(column)]) {
            throw nb::value_error("order has to name every column once");
        }
        seen[static_cast<size_t>(column)] = true;
    }
}

void round_arrays(const Matrix& weight, const Vector& steps, const Order& order, const Matrix& feedback,
                  const Vector& rate, const Matrix& lengths, const Integers& out, int threads) {
    const int64_t n = static_cast<int64_t>(weight.shape(0)), k = static_cast<int64_t>(weight.shape(1));
    if (n < 1 || k < 1 || n > kMaxDimension || k > kMaxDimension) {
        throw nb::value_error("a matrix to round has 1 to 2^31 - 1 rows and columns");
    }
    const int64_t tables = static_cast<int64_t>(lengths.shape(0));
    require_shape("steps", steps, {n});
    require_shape("order", order, {k});
    require_shape("feedback", feedback, {k, k});
    require_shape("rate", rate, {k});
    require_shape("lengths", lengths, {tables == 1 ? 1 : (n + kRowsOfATable - 1) / kRowsOfATable, kMagnitudes});
    require_shape("out", out, {n, k});
    const Rounding rounding{
        n,           k,         weight.data(), steps.data(), order.data(), feedback.data(), rate.data(), lengths.data(),
        tables == 1, out.data()};
    const nb::gil_scoped_release unlocked;
    require_finite("weight", weight);
    require_finite("steps", steps);
    for (int64_t row = 0; row < n; ++row) {
        if (!(steps.data()[row] > 0.0f)) throw nb::value_error("steps have to be positive");
    }
    require_permutation(order);
    require_finite("feedback", feedback);
    require_finite("rate", rate);
    require_finite("lengths", lengths);
    round_weights(rounding, threads);
}

}  // namespace

void bind_quantize(nb::module_& m) {
    m.def("round_weights", &round_arrays, "weight"_a.noconvert(), "steps"_a.noconvert(), "order"_a.noconvert(),
          "feedback"_a.noconvert(), "rate"_a.noconvert(), "lengths"_a.noconvert(), "out"_a.noconvert(), "threads"_a,
          "Rounds weight float32 [n, k] with error feedback into out int8 [n, k]; csrc/rounding/rounding.hpp has the "
          "other shapes. Raises ValueError for a wrong shape, values that are not finite, or steps that are not "
          "positive.");
}

}  // namespace tilepress
