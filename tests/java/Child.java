import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.stream.Stream;

/** A server that does not outlive the test that started it. */
final class Child {
    /**
     * Ends this process, and deletes its directory, as soon as its standard input ends: that is when its parent closes
     * the pipe, or is no more, however it ended.
     */
    static void endsWithItsParent(Path dir) {
        Thread thread = new Thread(() -> {
            try {
                while (System.in.read() >= 0) {}
            } catch (IOException e) {
                // As good as its end.
            }
            try (Stream<Path> files = Files.walk(dir)) {
                files.sorted(Comparator.reverseOrder()).forEach(file -> file.toFile().delete());
            } catch (IOException | UncheckedIOException e) {
                // What it still writes, or its parent has already deleted.
            }
            Runtime.getRuntime().halt(0);
        }, "parent");
        thread.setDaemon(true);
        thread.start();
    }

    private Child() {}
}
