// In place of MLX's header, which reaches into Apple's compiler: the stand-ins for Metal's own headers already have the
// functions of bfloat.
#pragma once
