// Copyright The Wherry Authors
// SPDX-License-Identifier: Apache-2.0

// Command hello is a small web server to run as a first container:
//
//	wherry run -d -p 8080:8080 ./examples/hello
//
// It says where it runs, listens on port 8080 (or $PORT), and ends at SIGTERM
// when the requests under way are answered.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func serve() error {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s := &http.Server{Addr: ":" + port, Handler: http.HandlerFunc(greet), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() {
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Shutdown(limit); err != nil {
			fmt.Fprintln(os.Stderr, "hello: shut down:", err)
		}
	})
	fmt.Println("hello: listening on port", port)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func greet(w http.ResponseWriter, r *http.Request) {
	host, err := os.Hostname()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "Hello from %s, a container on Wherry (%s/%s, %s).\n", host, runtime.GOOS, runtime.GOARCH, runtime.Version())
	fmt.Println(r.Method, r.URL.Path)
}
