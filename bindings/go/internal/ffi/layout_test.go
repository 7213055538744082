package ffi

import (
	"os"
	"strings"
	"testing"
)

// The generated layer against the golden table of the ABI: every struct, field and constant.
func TestLayoutIsTheGoldenOne(t *testing.T) {
	path := os.Getenv("TENON_GOLDEN_LAYOUT")
	if path == "" {
		path = "../../../../tests/abi/layout-0.9.txt"
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, line := range strings.Split(strings.TrimRight(string(golden), "\n"), "\n") {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	ours := GoldenLayout()
	if len(ours) != len(lines) || len(lines) < 400 {
		t.Fatalf("%d lines, the golden table has %d", len(ours), len(lines))
	}
	for i := range lines {
		if ours[i] != lines[i] {
			t.Errorf("%q, the golden table says %q", ours[i], lines[i])
		}
	}
}
