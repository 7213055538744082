// Package tenon brings memory-efficient LLM training techniques, which are plugins, to Go.
//
// A Context knows what is installed and what mixes; a Session is an opened device with counted memory; an Optimizer, a Quantizer and an
// Attention are made on a session and work on its tensors. A Trainer runs whole training sessions from a recipe.
//
// Tensors lie in memory of the session, not of Go: the garbage collector forbids C to follow pointers from Go memory to Go memory. Write,
// Read and Map move numbers in and out. Everything has a Close; what is forgotten is closed by a finalizer, and a session closes what was
// made on it. A closed object answers an error, never a crash. Calls on one session take turns; sessions run in parallel.
package tenon
