import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * An HTTP service on the JDK's own server, as a Java shop might have it: a shutdown hook lets requests in flight finish.
 *
 * <p>Run: {@code java Service.java PORT [hang]}. With {@code hang} the shutdown hook never returns.
 */
public final class Service {
    private static final byte[] FAST = "a small answer, at once\n".getBytes(StandardCharsets.US_ASCII);
    private static final byte[] SLOW = "a small answer, after a while\n".getBytes(StandardCharsets.US_ASCII);
    private static final int CHUNKS = 20;

    private static final AtomicInteger inFlight = new AtomicInteger();
    private static final AtomicBoolean leaving = new AtomicBoolean();

    private interface Handler {
        void handle(HttpExchange exchange) throws Exception;
    }

    public static void main(String[] args) throws IOException {
        int port = Integer.parseInt(args[0]);
        boolean hangs = args.length > 1 && args[1].equals("hang");
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 512);
        server.setExecutor(Executors.newCachedThreadPool(task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true);
            return thread;
        }));
        on(server, "/fast", exchange -> answer(exchange, FAST));
        on(server, "/slow", exchange -> {
            Thread.sleep(number(exchange, "ms"));
            answer(exchange, SLOW);
        });
        on(server, "/stream", Service::stream);
        // From here on every answer asks its client to leave. What a Dubbo provider does on QoS /offline.
        on(server, "/leave", exchange -> {
            leaving.set(true);
            answer(exchange, FAST);
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(server, hangs), "stop-the-server"));
        server.start();
        System.out.println("Service started on port " + port);
    }

    /**
     * The hook: runs on SIGTERM. Closes the listener, lets requests in flight finish, and closes kept connections with
     * their next answer. (With nothing in flight the JDK's {@code stop(n)} would wait all of its n seconds.)
     */
    private static void stop(HttpServer server, boolean hangs) {
        if (hangs) {
            hang();
        }
        leaving.set(true);
        server.stop(inFlight.get() > 0 ? 20 : 0);
    }

    private static synchronized void hang() {
        while (true) {
            try {
                Service.class.wait();
            } catch (InterruptedException e) {
                // A hook that hangs listens to nobody.
            }
        }
    }

    private static void on(HttpServer server, String path, Handler handler) {
        server.createContext(path, exchange -> {
            inFlight.incrementAndGet();
            try (exchange) {
                if (leaving.get()) {
                    exchange.getResponseHeaders().set("Connection", "close");
                }
                handler.handle(exchange);
            } catch (IOException e) {
                throw e;
            } catch (Exception e) {
                throw new IOException(e);
            } finally {
                inFlight.decrementAndGet();
            }
        });
    }

    private static void answer(HttpExchange exchange, byte[] body) throws IOException {
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
    }

    private static void stream(HttpExchange exchange) throws Exception {
        byte[] chunk = new byte[1024];
        Arrays.fill(chunk, (byte) '.');
        boolean length = "length=true".equals(exchange.getRequestURI().getQuery());
        exchange.sendResponseHeaders(200, length ? (long) CHUNKS * chunk.length : 0);
        try (OutputStream body = exchange.getResponseBody()) {
            for (int i = 0; i < CHUNKS; i++) {
                Thread.sleep(100);
                body.write(chunk);
                body.flush();
            }
        }
    }

    private static int number(HttpExchange exchange, String name) {
        String query = exchange.getRequestURI().getQuery();
        return Integer.parseInt(query.substring(name.length() + 1));
    }
}
