#include "simd/isa.hpp"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace tilepress {

extern const Kernels kPortableKernels;
EncodeTile encode_tile_portable;
#if defined(__x86_64__)
extern const Kernels kAvx512Kernels, kAvxVnniKernels, kAvx512VnniKernels, kAvx2Kernels;
EncodeTile encode_tile_avx512, encode_tile_avx2;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

bool has_avxvnni() {
    // Clang 14 does not know the name.
    unsigned eax = 0, ebx, ecx, edx;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}

bool has_avx512vnni() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

bool has_avx512() {
    return has_avx512vnni() && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2");
}
#elif defined(__aarch64__)
bool has_neon() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}
#endif

const Isa kIsas[] = {
#if defined(__x86_64__)
    {"avx512", has_avx512, kAvx512Kernels, encode_tile_avx512},
    {"avxvnni", has_avxvnni, kAvxVnniKernels, encode_tile_avx2},
    {"avx512vnni", has_avx512vnni, kAvx512VnniKernels, encode_tile_avx2},
    {"avx2", has_avx2, kAvx2Kernels, encode_tile_avx2},
#elif defined(__aarch64__)
    {"neon", has_neon, kNeonKernels, encode_tile_portable},
#endif
    {"portable", [] { return true; }, kPortableKernels, encode_tile_portable},
};

std::string available_names() {
    std::string names;
    for (const Isa& isa : kIsas) {
        if (isa.available()) names += names.empty() ? isa.name : std::string(", ") + isa.name;
    }
    return names;
}

const Isa& choose(std::string_view wanted) {
    for (const Isa& isa : kIsas) {
        if (wanted.empty() ? isa.available() : wanted == isa.name) {
            if (isa.available()) return isa;
            throw std::runtime_error("TILEPRESS_ISA is " + std::string(wanted) +
                                     ", which this processor does not have: unset it, or set it to one of " +
                                     available_names());
        }
    }
    throw std::runtime_error("TILEPRESS_ISA is '" + std::string(wanted) + "': unset it, or set it to one of " +
                             available_names());
}

}  // namespace

std::span<const Isa> isas() { return kIsas; }

const Isa& isa() {
    static const Isa& chosen = []() -> const Isa& {
        const char* const variable = std::getenv("TILEPRESS_ISA");
        return choose(variable == nullptr ? "" : variable);
    }();
    return chosen;
}

}  // namespace tilepress
