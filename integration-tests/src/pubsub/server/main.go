// A Pub/Sub for tests: Google's own fake, with what it lacks.
//
// It refuses what the service refuses (https://cloud.google.com/pubsub/quotas#resource_limits) and the fake takes, it
// fails as it is told by a file of the topic's id, and it keeps books: one line of JSON for each publish request, written
// before the request is answered. The books outlive it. Topics named in them are there again when it comes back;
// subscriptions and what they had not delivered are gone.
//
// The first line that it writes to the books when it starts has its version, which is that of Google's library.
//
// Usage: pubsub-server ADDRESS BOOKS FAULTS, with an address such as 127.0.0.1:8085.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	pb "cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	maxMessages       = 1000
	maxRequestBytes   = 10_000_000
	maxAttributes     = 100
	maxAttributeKey   = 256
	maxAttributeValue = 1024
	maxOrderingKey    = 1024
	// The payload that no topic takes.
	poison = "poison"
	// How much of a payload is kept in the books.
	head = 64
)

// Set by the build.
var version = "unknown"

// A line of the books.
type entry struct {
	Version string   `json:"version,omitempty"`
	Created string   `json:"created,omitempty"`
	Topic   string   `json:"topic,omitempty"`
	Key     string   `json:"key,omitempty"`
	Code    string   `json:"code,omitempty"`
	Ids     []string `json:"ids,omitempty"`
	Heads   []string `json:"heads,omitempty"`
}

type server struct {
	mu        sync.Mutex
	books     *os.File
	faults    string
	publishes map[string]int
	conns     *connections
}

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: pubsub-server ADDRESS BOOKS FAULTS")
	}
	fake := pstest.NewServer()
	topics := createdBefore(os.Args[2])
	books, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range topics {
		if _, err := fake.GServer.CreateTopic(context.Background(), &pb.Topic{Name: name}); err != nil {
			log.Fatal(err)
		}
	}
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	conns := &connections{Listener: listener, open: map[string]net.Conn{}}
	s := &server{books: books, faults: os.Args[3], publishes: map[string]int{}, conns: conns}
	s.write(entry{Version: version})
	front := grpc.NewServer(grpc.UnaryInterceptor(s.intercept), grpc.MaxRecvMsgSize(64<<20))
	pb.RegisterPublisherServer(front, &fake.GServer)
	pb.RegisterSubscriberServer(front, &fake.GServer)
	log.Fatal(front.Serve(conns))
}

// The topics that were made in a former life. A line that was cut off by the end of that life is the last one.
func createdBefore(books string) []string {
	file, err := os.Open(books)
	if err != nil {
		return nil
	}
	defer file.Close()
	var topics []string
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var line entry
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Created != "" {
			topics = append(topics, line.Created)
		}
	}
	return topics
}

func (s *server) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	switch req := req.(type) {
	case *pb.Topic:
		resp, err := handle(ctx, req)
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.write(entry{Created: req.Name})
		}
		return resp, err
	case *pb.PublishRequest:
		return s.publish(ctx, req, handle)
	default:
		return handle(ctx, req)
	}
}

// One at a time, so that the books are in the order in which messages were taken.
func (s *server) publish(ctx context.Context, req *pb.PublishRequest, handle grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.publishes[req.Topic]++
	fault := s.fault(req.Topic)
	err := fault.before(s.publishes[req.Topic])
	if err == nil {
		err = check(req)
	}
	// What a client has given up is not taken any more.
	if err == nil {
		err = ctx.Err()
	}
	var resp any
	if err == nil {
		resp, err = handle(ctx, req)
	}
	line := entry{Topic: req.Topic, Code: status.Code(err).String()}
	for _, message := range req.Messages {
		line.Key = message.OrderingKey
		line.Ids = append(line.Ids, message.Attributes["outbox-id"])
		line.Heads = append(line.Heads, strings.ToValidUTF8(string(message.Data[:min(head, len(message.Data))]), "?"))
	}
	s.write(line)
	if err == nil && fault.name == "lost" {
		s.conns.cut(ctx)
		return nil, status.Error(codes.Unavailable, "the connection is cut")
	}
	return resp, err
}

func (s *server) write(line entry) {
	text, err := json.Marshal(line)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := s.books.Write(append(text, '\n')); err != nil {
		log.Fatal(err)
	}
}

// What is to go wrong: a word and a number.
type fault struct {
	name   string
	number int
}

func (s *server) fault(topic string) fault {
	text, err := os.ReadFile(filepath.Join(s.faults, path.Base(topic)))
	if err != nil {
		return fault{}
	}
	words := append(strings.Fields(string(text)), "", "")
	number, _ := strconv.Atoi(words[1])
	return fault{words[0], number}
}

// The answer instead of what was asked for.
func (f fault) before(count int) error {
	switch f.name {
	case "code":
		return status.Error(codes.Code(f.number), "as told")
	case "every-second":
		if count%2 == 0 {
			return status.Error(codes.Code(f.number), "every second request, as told")
		}
	}
	return nil
}

// What the service refuses.
func check(req *pb.PublishRequest) error {
	refuse := func(format string, values ...any) error {
		return status.Error(codes.InvalidArgument, fmt.Sprintf(format, values...))
	}
	if len(req.Messages) == 0 || len(req.Messages) > maxMessages {
		return refuse("%d messages in a request", len(req.Messages))
	}
	if size := proto.Size(req); size > maxRequestBytes {
		return refuse("%d bytes in a request", size)
	}
	for _, message := range req.Messages {
		if message.OrderingKey != req.Messages[0].OrderingKey {
			return refuse("several ordering keys in a request")
		}
		if len(message.OrderingKey) > maxOrderingKey {
			return refuse("an ordering key of %d bytes", len(message.OrderingKey))
		}
		if len(message.Data) == 0 && len(message.Attributes) == 0 {
			return refuse("a message without data and attributes")
		}
		if string(message.Data) == poison {
			return refuse("a message that does not fit the schema")
		}
		if len(message.Attributes) > maxAttributes {
			return refuse("%d attributes", len(message.Attributes))
		}
		for key, value := range message.Attributes {
			if key == "" || len(key) > maxAttributeKey || strings.HasPrefix(key, "goog") || len(value) > maxAttributeValue {
				return refuse("attribute %q of %d bytes", key, len(value))
			}
		}
	}
	return nil
}

// A listener that knows its connections.
type connections struct {
	net.Listener
	mu   sync.Mutex
	open map[string]net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.open[conn.RemoteAddr().String()] = conn
		c.mu.Unlock()
	}
	return conn, err
}

// Ends the connection that a request came over.
func (c *connections) cut(ctx context.Context) {
	from, known := peer.FromContext(ctx)
	if !known {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, open := c.open[from.Addr.String()]; open {
		conn.Close()
		delete(c.open, from.Addr.String())
	}
}
