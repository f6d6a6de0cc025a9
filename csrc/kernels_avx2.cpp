// The kernels for processors that have AVX2.
#ifdef __AVX2__

#define TILEPRESS_TARGET avx2
#include "dot_maddubs.hpp"
// after the operations it is written in
#include "multiply_narrowest-inl.hpp"
// before the decoder that opens tiles by them
#include "decode-inl.hpp"
// in plain loops
#include "activations-inl.hpp"
#include "attention-inl.hpp"
#include "rounding-inl.hpp"
#include "scale_sums-inl.hpp"

namespace tilepress {

extern const Kernels kAvx2Kernels;
const Kernels kAvx2Kernels{avx2::decode,   avx2::decode_rows, avx2::multiply_narrowest,
                           avx2::quantize, avx2::find_range,  avx2::scale_sums,
                           avx2::attend,   avx2::round_rows};

}  // namespace tilepress

#endif
