import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.stream.Stream;

/** A program that does not outlive the test that started it. */
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

    /** Those of its arguments that are {@code -Dproperty=value}, as a JVM would take them. */
    static void properties(String[] args) {
        for (String arg : args) {
            if (arg.startsWith("-D") && arg.contains("=")) {
                int end = arg.indexOf('=');
                System.setProperty(arg.substring(2, end), arg.substring(end + 1));
            }
        }
    }

    private Child() {}
}
