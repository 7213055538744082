package ffi

// #cgo LDFLAGS: -ltenon -ltenon_trainer
import "C"
