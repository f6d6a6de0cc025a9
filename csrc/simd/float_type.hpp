// The types that activations come in and outputs go out.
#pragma once

#include <type_traits>

#include "simd/float16.hpp"

namespace tilepress {

enum class FloatType { float32, bfloat16, float16 };

// Calls use(pointer of the type that `type` names). `use` is a generic callable; Void is void or const void.
template <typename Void, typename Use>
TILEPRESS_ALWAYS_INLINE auto with_floats(FloatType type, Void* p, Use&& use) {
    const auto as = [&]<typename Float>() {
        if constexpr (std::is_const_v<Void>) {
            return use(static_cast<const Float*>(p));
        } else {
            return use(static_cast<Float*>(p));
        }
    };
    switch (type) {
        case FloatType::bfloat16:
            return as.template operator()<BFloat16>();
        case FloatType::float16:
            return as.template operator()<Float16>();
        default:
            return as.template operator()<float>();
    }
}

}  // namespace tilepress
