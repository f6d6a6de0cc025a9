// What quantization runs natively, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "python/bindings.hpp"
#include "rounding/refinement.hpp"
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
using Errors = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

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

// Each `block` entries have to name themselves in some order.
void require_permutation(const char* message, const Order& order, int64_t block) {
    const int64_t count = static_cast<int64_t>(order.size());
    std::vector<bool> seen(order.size());
    for (int64_t i = 0; i < count; ++i) {
        const int64_t named = order.data()[i];
        if (named < 0 || named >= count || named / block != i / block || seen[static_cast<size_t>(named)]) {
            throw nb::value_error(message);
        }
        seen[static_cast<size_t>(named)] = true;
    }
}

void require_dimensions(int64_t n, int64_t k) {
    if (n < 1 || k < 1 || n > kMaxDimension || k > kMaxDimension) {
        throw nb::value_error("a matrix to round has 1 to 2^31 - 1 rows and columns");
    }
}

void require_positive(const char* name, const Vector& array) {
    for (size_t i = 0; i < array.size(); ++i) {
        if (!(array.data()[i] > 0.0f)) throw nb::value_error((std::string(name) + " have to be positive").c_str());
    }
}

void round_arrays(const Matrix& weight, const Vector& steps, const Order& order, const Matrix& feedback,
                  const Vector& rate, const Matrix& lengths, const std::optional<Order>& row_order,
                  const std::optional<Matrix>& row_feedback, const Integers& out, const std::optional<Errors>& errors,
                  int threads) {
    const int64_t n = static_cast<int64_t>(weight.shape(0)), k = static_cast<int64_t>(weight.shape(1));
    require_dimensions(n, k);
    const int64_t tables = static_cast<int64_t>(lengths.shape(0));
    require_shape("steps", steps, {n});
    require_shape("order", order, {k});
    require_shape("feedback", feedback, {k, k});
    require_shape("rate", rate, {k});
    require_shape("lengths", lengths, {tables == 1 ? 1 : (n + kRowsOfATable - 1) / kRowsOfATable, kMagnitudes});
    require_shape("out", out, {n, k});
    if (row_order.has_value() != row_feedback.has_value()) {
        throw nb::value_error("row_order and row_feedback go together");
    }
    if (row_order) {
        require_shape("row_order", *row_order, {n});
        require_shape("row_feedback", *row_feedback, {n, kRowsOfABlock});
    }
    if (errors) require_shape("errors", *errors, {n, k});
    const Rounding rounding{
        .n = n,
        .k = k,
        .weight = weight.data(),
        .steps = steps.data(),
        .order = order.data(),
        .feedback = feedback.data(),
        .rate = rate.data(),
        .lengths = lengths.data(),
        .one_table = tables == 1,
        .row_order = row_order ? row_order->data() : nullptr,
        .row_feedback = row_feedback ? row_feedback->data() : nullptr,
        .out = out.data(),
        .errors = errors ? errors->data() : nullptr,
    };
    const nb::gil_scoped_release unlocked;
    require_finite("weight", weight);
    require_finite("steps", steps);
    require_positive("steps", steps);
    require_permutation("order has to name every column once", order, k);
    require_finite("feedback", feedback);
    require_finite("rate", rate);
    require_finite("lengths", lengths);
    if (row_order) {
        require_permutation("row_order has to name every row of each block once", *row_order, kRowsOfABlock);
        require_finite("row_feedback", *row_feedback);
    }
    round_weights(rounding, threads);
}

void refine_arrays(const Matrix& weight, const Vector& steps, const Order& order, const Matrix& hessian,
                   const Vector& rate, const Matrix& lengths, const std::optional<Order>& row_order,
                   const std::optional<Matrix>& coupling, const std::optional<Vector>& row_rate, const Vector& noise,
                   const Integers& integers, int threads) {
    const int64_t n = static_cast<int64_t>(weight.shape(0)), k = static_cast<int64_t>(weight.shape(1));
    require_dimensions(n, k);
    const int64_t tables = static_cast<int64_t>(lengths.shape(0));
    require_shape("steps", steps, {n});
    require_shape("order", order, {k});
    require_shape("hessian", hessian, {k, k});
    require_shape("rate", rate, {k});
    require_shape("lengths", lengths, {tables == 1 ? 1 : (n + kRowsOfATable - 1) / kRowsOfATable, kMagnitudes});
    require_shape("integers", integers, {n, k});
    if (row_order.has_value() != coupling.has_value() || row_order.has_value() != row_rate.has_value()) {
        throw nb::value_error("row_order, coupling and row_rate go together");
    }
    if (row_order) {
        require_shape("row_order", *row_order, {n});
        require_shape("coupling", *coupling, {n, kRowsOfABlock});
        require_shape("row_rate", *row_rate, {n});
    }
    const Refinement refinement{
        .n = n,
        .k = k,
        .weight = weight.data(),
        .steps = steps.data(),
        .order = order.data(),
        .hessian = hessian.data(),
        .rate = rate.data(),
        .lengths = lengths.data(),
        .one_table = tables == 1,
        .row_order = row_order ? row_order->data() : nullptr,
        .coupling = coupling ? coupling->data() : nullptr,
        .row_rate = row_rate ? row_rate->data() : nullptr,
        .noise = noise.data(),
        .sweeps = static_cast<int>(noise.size()),
        .integers = integers.data(),
    };
    const nb::gil_scoped_release unlocked;
    require_finite("weight", weight);
    require_finite("steps", steps);
    require_positive("steps", steps);
    require_permutation("order has to name every column once", order, k);
    require_finite("hessian", hessian);
    require_finite("rate", rate);
    require_finite("lengths", lengths);
    require_finite("noise", noise);
    if (row_order) {
        require_permutation("row_order has to name every row of each block once", *row_order, kRowsOfABlock);
        require_finite("coupling", *coupling);
        require_finite("row_rate", *row_rate);
    }
    for (size_t i = 0; i < integers.size(); ++i) {
        if (integers.data()[i] == -128) throw nb::value_error("integers have to be -127 to 127");
    }
    refine_weights(refinement, threads);
}

}  // namespace

void bind_quantize(nb::module_& m) {
    m.def("round_weights", &round_arrays, "weight"_a.noconvert(), "steps"_a.noconvert(), "order"_a.noconvert(),
          "feedback"_a.noconvert(), "rate"_a.noconvert(), "lengths"_a.noconvert(), "row_order"_a.noconvert().none(),
          "row_feedback"_a.noconvert().none(), "out"_a.noconvert(), "errors"_a.noconvert().none(), "threads"_a,
          "Rounds weight float32 [n, k] with error feedback into out int8 [n, k]; csrc/rounding/rounding.hpp has the "
          "other shapes. row_order, row_feedback and errors may be None. Raises ValueError for a wrong shape, values "
          "that are not finite, or steps that are not "
          "positive.");
    m.def("refine_weights", &refine_arrays, "weight"_a.noconvert(), "steps"_a.noconvert(), "order"_a.noconvert(),
          "hessian"_a.noconvert(), "rate"_a.noconvert(), "lengths"_a.noconvert(), "row_order"_a.noconvert().none(),
          "coupling"_a.noconvert().none(), "row_rate"_a.noconvert().none(), "noise"_a.noconvert(),
          "integers"_a.noconvert(), "threads"_a,
          "Refines integers int8 [n, k] in place, one sweep for each value of noise; csrc/rounding/refinement.hpp has "
          "the other shapes. row_order, coupling and row_rate may be None. Raises ValueError for a wrong shape, values "
          "that are not finite, steps that are not positive, or an integer of -128.");
}

}  // namespace tilepress
