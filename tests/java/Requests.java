import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpClient.Version;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;

/**
 * Sends requests by java.net.http.HttpClient for some seconds: java Requests.java http://HOST:PORT SECONDS.
 *
 * All are POST: for those the client repeats nothing by itself (jdk.httpclient.enableAllMethodRetry is off), so that
 * whatever goes wrong is an exception here. Ends with "N answers, M failures" and the stack traces.
 */
public class Requests {
    static final AtomicLong answers = new AtomicLong();
    static final AtomicLong failures = new AtomicLong();

    public static void main(String[] args) throws InterruptedException {
        String base = args[0];
        long end = System.nanoTime() + Duration.ofSeconds(Long.parseLong(args[1])).toNanos();
        // The second asks for an upgrade to h2c with each new connection, which it may be refused and here is.
        List<HttpClient> clients = List.of(client(Version.HTTP_1_1), client(Version.HTTP_2));
        List<Thread> threads = new ArrayList<>();
        for (HttpClient client : clients) {
            for (String path : List.of("/fast", "/fast", "/slow?ms=20", "/slow?ms=700", "/stream?chunks=3")) {
                Thread thread = new Thread(() -> {
                    while (System.nanoTime() < end) {
                        send(client, URI.create(base + path));
                    }
                });
                thread.start();
                threads.add(thread);
            }
        }
        for (Thread thread : threads) {
            thread.join();
        }
        System.out.println(answers + " answers, " + failures + " failures");
        System.exit(failures.get() == 0 ? 0 : 1);
    }

    static HttpClient client(Version version) {
        return HttpClient.newBuilder().version(version).connectTimeout(Duration.ofSeconds(60)).build();
    }

    static void send(HttpClient client, URI uri) {
        HttpRequest request = HttpRequest.newBuilder(uri)
                .POST(BodyPublishers.ofString("a small body"))
                .timeout(Duration.ofSeconds(60))
                .build();
        try {
            HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
            int expected = uri.getPath().equals("/stream") ? 3 * 64 : uri.getPath().equals("/slow") ? 30 : 24;
            if (response.statusCode() != 200 || response.body().length() != expected) {
                throw new IllegalStateException(response + ": " + response.body());
            }
            answers.incrementAndGet();
            // Now and then each is idle for a moment.
            Thread.sleep(5);
        } catch (Exception e) {
            failures.incrementAndGet();
            e.printStackTrace();
        }
    }
}
