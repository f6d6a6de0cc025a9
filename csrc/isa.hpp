// Which instruction set the kernels use, chosen once at run time.
#pragma once

namespace tilepress {

enum class Isa { portable, avx2 };

// The best that this processor has, or what the environment variable TILEPRESS_ISA asks for ("portable", "avx2"). The
// first call decides; throws std::runtime_error when the variable's value is unknown or not available here.
Isa isa();

const char* name(Isa isa);

}  // namespace tilepress
