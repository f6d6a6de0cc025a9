// The kernels for processors that have AVX2 and VNNI without AVX-512: Alder Lake and newer.
#ifdef __AVXVNNI__

#define TILEPRESS_TARGET avxvnni
#include "dot_vnni.hpp"
// after the operations it is written in
#include "multiply-inl.hpp"
// before the decoder that opens tiles by them
#include "decode-inl.hpp"
// in plain loops
#include "activations-inl.hpp"
#include "attention-inl.hpp"
#include "rounding-inl.hpp"
#include "scale_sums-inl.hpp"

namespace tilepress {

extern const Kernels kAvxVnniKernels;
const Kernels kAvxVnniKernels{avxvnni::decode,   avxvnni::decode_rows, avxvnni::multiply<avxvnni::Dot>,
                              avxvnni::quantize, avxvnni::find_range,  avxvnni::scale_sums,
                              avxvnni::attend,   avxvnni::round_rows};

}  // namespace tilepress

#endif
