// The worked example: worked STORE FOLDER. The other languages' examples print the same digits.
package main

import (
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"
	"strings"

	"tenon"
)

const samples, in, out, steps = 16, 16, 8, 150

// fill makes n numbers of [-0.5, 0.5) that every language makes alike, exact in float32.
func fill(n int, seed uint64) []float32 {
	numbers := make([]float32, n)
	for i := range numbers {
		seed = seed*6364136223846793005 + 1442695040888963407
		numbers[i] = float32(float64(seed>>40)/16777216.0 - 0.5)
	}
	return numbers
}

func digest(values ...uint64) func(size int) uint64 {
	return func(size int) uint64 {
		h, data := uint64(14695981039346656037), make([]byte, 8)
		for _, value := range values {
			binary.LittleEndian.PutUint64(data, value)
			for _, b := range data[:size] {
				h = (h ^ uint64(b)) * 1099511628211
			}
		}
		return h
	}
}

func digest32(values []float32) uint64 {
	bits := make([]uint64, len(values))
	for i, v := range values {
		bits[i] = uint64(math.Float32bits(v))
	}
	return digest(bits...)(4)
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func try(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// lossAndGradient is the mean squared error of X Wᵀ against X Tᵀ, and its gradient, in float64.
func lossAndGradient(x, t, w, g []float32) float64 {
	loss, sums := 0.0, make([]float64, out*in)
	for s := 0; s < samples; s++ {
		for o := 0; o < out; o++ {
			e := 0.0
			for i := 0; i < in; i++ {
				e += float64(float64(x[s*in+i]) * (float64(w[o*in+i]) - float64(t[o*in+i])))
			}
			loss += float64(e * e)
			for i := 0; i < in; i++ {
				sums[o*in+i] += float64(e * float64(x[s*in+i]))
			}
		}
	}
	for k := range g {
		g[k] = float32(sums[k] * (2.0 / (samples * out)))
	}
	return loss / (samples * out)
}

func regression(session *tenon.Session) {
	galore := must(session.Optimizer("galore:rank=4,update_proj_gap=10,scale=1",
		tenon.Param{Shape: []int64{out, in}, DType: tenon.Float32, Role: tenon.RoleQ, UID: 1, Name: "w"}))
	x, t, w, g := fill(samples*in, 1), fill(out*in, 2), fill(out*in, 3), make([]float32, out*in)
	weight := must(tenon.NewTensor(session, tenon.Weights, w, out, in))
	gradient := must(session.Tensor(tenon.Gradients, tenon.Float32, out, in))
	first := lossAndGradient(x, t, w, g)
	last := first
	for step := 0; step < steps; step++ {
		try(tenon.Write(gradient, g))
		try(galore.Step(tenon.Update{LR: 0.05, Seed: 7}, []*tenon.Tensor{weight}, []*tenon.Tensor{gradient}))
		try(tenon.Read(weight, w))
		last = lossAndGradient(x, t, w, g)
	}
	fmt.Printf("galore: loss %.6f, after %d steps %.6f, digest %016x\n", first, steps, last, digest32(w))
}

func codec(session *tenon.Session) {
	numbers := fill(64*128, 11)
	matrix := must(tenon.NewTensor(session, tenon.Weights, numbers, 64, 128))
	nf4 := must(session.Quantizer("nf4"))
	coded := must(nf4.Encode(matrix, tenon.RoleOther, "matrix", 1))
	decoded, back := must(session.Tensor(tenon.Weights, tenon.Float32, 64, 128)), make([]float32, 64*128)
	try(coded.Decode(0, coded.Len(), decoded))
	try(tenon.Read(decoded, back))
	worst := 0.0
	for i := range back {
		worst = math.Max(worst, math.Abs(float64(back[i])-float64(numbers[i])))
	}
	fmt.Printf("nf4: %d bytes, worst error %.6f, digest %016x\n", must(coded.Bytes()), worst, digest32(back))
}

func attention(session *tenon.Session) {
	flash := must(session.Attention("flash-attention", tenon.AttentionConfig{Heads: 4, KVHeads: 2, HeadSize: 16}))
	q := must(tenon.NewTensor(session, tenon.Activations, fill(16*4*16, 21), 1, 16, 4, 16))
	k := must(tenon.NewTensor(session, tenon.Activations, fill(16*2*16, 22), 1, 16, 2, 16))
	v := must(tenon.NewTensor(session, tenon.Activations, fill(16*2*16, 23), 1, 16, 2, 16))
	o := must(session.Tensor(tenon.Activations, tenon.Float32, 1, 16, 4, 16))
	try(flash.Forward(q, k, v, 0, o, nil))
	numbers := make([]float32, o.Len())
	try(tenon.Read(o, numbers))
	fmt.Printf("attention: digest %016x\n", digest32(numbers))
}

func training(store, folder string) {
	data := filepath.Join(folder, "data.txt")
	var text strings.Builder
	for i := 0; i < 60; i++ {
		fmt.Fprintf(&text, "The joiner cut tenon %d to fit mortise %d.\n", i, i*7%60)
	}
	try(os.WriteFile(data, []byte(text.String()), 0o600))
	trainer := must(tenon.NewTrainer(tenon.Recipe{
		"model": "preset:9m", "data": data, "output": filepath.Join(folder, "out"), "device": "onednn", "adapter": "lora:r=4", "quantizer": "nf4",
		"optimizer": "galore:rank=4", "seq-len": 32, "batch-size": 2, "steps": 5, "lr": 0.01, "schedule": "constant", "seed": 3,
	}, store))
	defer trainer.Close()
	var losses []uint64
	last := 0.0
	must(trainer.Run(tenon.Events{Step: func(s tenon.Step) bool {
		last = s.Loss
		losses = append(losses, math.Float64bits(s.Loss))
		return true
	}}))
	fmt.Printf("train: %d steps, loss %.6f, digest %016x\n", len(losses), last, digest(losses...)(8))
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("worked STORE FOLDER")
	}
	context := must(tenon.Open(os.Args[1]))
	var ids []string
	for _, plugin := range must(context.Plugins()) {
		ids = append(ids, plugin.ID)
	}
	fmt.Println("catalog:", strings.Join(ids, ", "))
	mix := []tenon.Technique{{Kind: tenon.KindOptimizer, Spec: "galore:rank=4"}, {Kind: tenon.KindAdapter, Spec: "lora:r=4"},
		{Kind: tenon.KindQuantizer, Spec: "nf4"}, {Kind: tenon.KindAttention, Spec: "flash-attention"}}
	possible := "not possible"
	if must(context.Check(mix)).Possible {
		possible = "possible"
	}
	fmt.Printf("mix: %s; %s\n", possible, must(context.Check(mix[:1], "device:abacus")).Reasons[0].Sentence)
	session := must(context.Session("onednn", 0))
	regression(session)
	codec(session)
	attention(session)
	training(os.Args[1], os.Args[2])
	try(session.Close())
	try(context.Close())
}
