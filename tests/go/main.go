// A gRPC client of grpc-go against examples/service.rs, through stops:
//
//	client unary HOST:PORT SECONDS   eight goroutines call demo.Demo/Get; "N answers, M failures" at the end
//	client stream HOST:PORT          keeps one demo.Demo/Watch open, and opens it again when its server has ended it,
//	                                 until standard input is closed; "N streams, M ended by their server, K failures"
//
// To a line on standard input "stream" answers with "alive" at its next message. Nothing is repeated: retries are off.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// raw passes messages through as bytes: no protobuf is needed.
type raw struct{}

func (raw) Name() string { return "raw" }

func (raw) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }

func (raw) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

const message = "a small message"

func main() {
	conn, err := grpc.Dial(os.Args[2],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})),
		grpc.WithDisableRetry())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	switch os.Args[1] {
	case "unary":
		seconds, err := strconv.Atoi(os.Args[3])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		unary(conn, time.Duration(seconds)*time.Second)
	case "stream":
		stream(conn)
	}
}

func unary(conn *grpc.ClientConn, length time.Duration) {
	var answers, failures atomic.Int64
	end := time.Now().Add(length)
	var all sync.WaitGroup
	for i := 0; i < 8; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				var request, answer []byte
				err := conn.Invoke(context.Background(), "/demo.Demo/Get", &request, &answer)
				if err != nil || string(answer) != message {
					fmt.Fprintf(os.Stderr, "%q, %v\n", answer, err)
					failures.Add(1)
				} else {
					answers.Add(1)
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
	}
	all.Wait()
	fmt.Printf("%d answers, %d failures\n", answers.Load(), failures.Load())
}

func stream(conn *grpc.ClientConn) {
	ctx, leave := context.WithCancel(context.Background())
	var asked atomic.Bool
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			asked.Store(true)
		}
		leave()
	}()
	streams, ended, failures := 0, 0, 0
	for ctx.Err() == nil {
		streams++
		messages, err := watch(ctx, conn, &asked)
		switch {
		case ctx.Err() != nil: // it has left by itself
		case messages > 0 && status.Code(err) == codes.Unavailable && status.Convert(err).Message() == "the server is stopping":
			ended++
		default:
			fmt.Fprintf(os.Stderr, "after %d messages: %v\n", messages, err)
			failures++
		}
	}
	fmt.Printf("%d streams, %d ended by their server, %d failures\n", streams, ended, failures)
}

// watch reads until there is no more, and returns how many messages came before the status.
func watch(ctx context.Context, conn *grpc.ClientConn, asked *atomic.Bool) (int, error) {
	description := &grpc.StreamDesc{ServerStreams: true}
	stream, err := conn.NewStream(ctx, description, "/demo.Demo/Watch")
	if err != nil {
		return 0, err
	}
	var request []byte
	if err := stream.SendMsg(&request); err != nil && err != io.EOF {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	for messages := 0; ; messages++ {
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil {
			return messages, err
		}
		if string(answer) != message {
			return 0, fmt.Errorf("%q", answer)
		}
		if asked.Swap(false) {
			fmt.Println("alive")
		}
	}
}
