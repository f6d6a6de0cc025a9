#include "isa.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tilepress {

namespace {

// All that the build enables for *_avx2.cpp.
bool has_avx2() {
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
#else
    return false;
#endif
}

Isa choose() {
    const char* variable = std::getenv("TILEPRESS_ISA");
    const std::string wanted = variable == nullptr ? "" : variable;
    if (wanted == "portable") return Isa::portable;
    if (wanted == "avx2" && !has_avx2()) {
        throw std::runtime_error(
            "TILEPRESS_ISA is avx2, which this processor does not have: unset it, or set it to portable");
    }
    if (wanted != "" && wanted != "avx2") {
        throw std::runtime_error("TILEPRESS_ISA is '" + wanted + "': set it to portable or avx2, or unset it");
    }
    return has_avx2() ? Isa::avx2 : Isa::portable;
}

}  // namespace

Isa isa() {
    static const Isa chosen = choose();
    return chosen;
}

const char* name(Isa isa) { return isa == Isa::avx2 ? "avx2" : "portable"; }

}  // namespace tilepress
